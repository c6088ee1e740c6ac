"""Child processes that are started again when they die, and stopped for sure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
SECONDS_TO_COUNT_AS_WELL = 60.0
MAX_LOG_BYTES = 10 * 1024 * 1024
_TIED = Path(__file__).with_name("tied.py")


@dataclass(frozen=True)
class ChildSpec:
    """What to run.

    Attributes:
        name: For people, and for the log file.
        command: Program and arguments.
        environment: The whole environment.
        stdin: Written to the program's standard input, which is then closed.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    stdin: bytes = field(default=b"", repr=False)
    grace: float = 10.0


class CannotRun(Exception):  # noqa: N818 - reads as what it is at the raise site
    """A child ended in a way that starting it again cannot repair; carries its last words."""


class Child:
    """One child: running, or waiting to be started again."""

    def __init__(self, spec: ChildSpec, log_folder: Path) -> None:
        self.spec = spec
        self.log_path = log_folder / f"{spec.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = FIRST_PAUSE
        self._started_at = 0.0
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while the child runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process."""
        self._trim_log()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_TIED), str(os.getpid()), *self.spec.command],
                env=dict(self.spec.environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches only the parent, which stops the children in order.
                start_new_session=True,
            )
        self._started_at = time.monotonic()
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError), pipe:
            pipe.write(self.spec.stdin)

    def tend(self) -> str | None:
        """Notice a death, or start again when the pause is over; tells what people should know.

        Raises:
            CannotRun: Starting it again would end the same way.
        """
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self.start()
            return None
        status = self._process.poll()
        if status is None:
            return None
        if status == os.EX_CONFIG:
            raise CannotRun(f"{self.spec.name} cannot run as configured:\n{self.last_lines()}")
        lived_well = now - self._started_at > SECONDS_TO_COUNT_AS_WELL
        self._pause = FIRST_PAUSE if lived_well else self._pause
        self._process, self._start_at = None, now + self._pause
        message = f"{self.spec.name} {_ending(status)}; starting it again in {self._pause:g} s"
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        return f"{message} (see {self.log_path})"

    def terminate(self) -> None:
        """Ask the process to stop."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, deadline: float) -> None:
        """Wait for the process to end until a deadline (monotonic clock), then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def last_lines(self, count: int = 5) -> str:
        """The end of the log, for a person to see why."""
        if not self.log_path.exists():
            return ""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def _trim_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > MAX_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))


def stop_all(children: Iterable[Child]) -> None:
    """Stop children together: SIGTERM to each, then SIGKILL to those that outstay their grace."""
    ending = list(children)
    now = time.monotonic()
    for child in ending:
        child.terminate()
    for child in ending:
        child.wait(now + child.spec.grace)


def wait_until(ready: Callable[[], bool], child: Child, seconds: float) -> None:
    """Wait until a child is ready.

    Raises:
        CannotRun: It died or was not ready in time; carries the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        died = child.tend()
        if died is not None or time.monotonic() > deadline:
            what = "ended" if died is not None else f"was not ready within {seconds:g} s"
            raise CannotRun(f"{child.spec.name} {what}:\n{child.last_lines()}")
        time.sleep(0.05)


def _ending(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
