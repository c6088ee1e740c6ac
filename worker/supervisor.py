"""One supervisor a device: starts a render and a deliver process on it and keeps them running.

It loads no model and holds no job, so it has nothing to lose; what a child was doing when it died,
the record gives to whoever claims next.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
SECONDS_TO_COUNT_AS_WELL = 60.0


@dataclass
class Child:
    """One process, or the pause before it is started again.

    Attributes:
        name: For the log.
        command: Program and arguments.
    """

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    _pause: float = FIRST_PAUSE
    _started_at: float = 0.0
    _start_at: float = field(default=0.0)

    def start_if_due(self) -> None:
        """Start it, unless it runs or a pause is not over."""
        if self.process is not None or time.monotonic() < self._start_at:
            return
        # A session of its own: Ctrl-C reaches only the supervisor, which passes it on once.
        self.process = subprocess.Popen(list(self.command), start_new_session=True)
        self._started_at = time.monotonic()
        log.info("%s runs as process %d", self.name, self.process.pid)

    def reap(self) -> int | None:
        """The exit status if it has just ended; then it is due again after a pause."""
        status = None if self.process is None else self.process.poll()
        if status is not None:
            self.process = None
            now = time.monotonic()
            if now - self._started_at > SECONDS_TO_COUNT_AS_WELL:
                self._pause = FIRST_PAUSE
            self._start_at = now + self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        return status


class Supervisor:
    """Keeps some commands running until it is told to stop.

    Args:
        commands: By name.
        hopeless: Exit statuses that starting again cannot repair: all stops with that status.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], hopeless: frozenset[int]) -> None:
        self._children = [Child(name, command) for name, command in commands.items()]
        self._hopeless = hopeless
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT and until every child has ended. Returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while not (self._stopping and all(child.process is None for child in self._children)):
            for child in self._children:
                self._tend(child)
            time.sleep(POLL_SECONDS)
        return self._status

    def _tend(self, child: Child) -> None:
        if not self._stopping:
            child.start_if_due()
        status = child.reap()
        if status is None:
            return
        if self._stopping:
            log.info("%s ended with status %d", child.name, status)
        elif status in self._hopeless:
            log.error("%s cannot run (status %d); stopping", child.name, status)
            self._status = status
            self._stop()
        else:
            log.warning("%s ended with status %d; starting it again", child.name, status)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        """Ask every child to stop. A second request goes to the children too: theirs to judge."""
        self._stopping = True
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
