"""A wall clock that is wrong and jumps, for a worker process of a test.

What Python code asks for the time of day is answered wrongly in the whole process: ours, RQ's,
redis-py's, botocore's. Clocks that only measure (`time.monotonic`) go on, as they do on a machine
whose clock is set.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import time_machine

VARIABLE = "TEST_CLOCK_FILE"
"""Names a file with the seconds that the process's clock is ahead; it may change at any time."""

POLL_SECONDS = 0.1


def set_ahead(file: Path, seconds: float) -> None:
    """Let the clocks of the processes that follow a file jump to so many seconds ahead."""
    partial = file.with_suffix(".partial")
    partial.write_text(f"{seconds:g}")
    partial.replace(file)


def follow(file: Path) -> None:
    """Set this process's clock by a file from now on."""
    import time_machine  # it imports pytest, which no other process of a test needs

    ahead = _read(file)
    clock = time_machine.travel(datetime.now(UTC).timestamp() + ahead, tick=True).start()
    threading.Thread(target=_follow, args=(clock, file, ahead), name="clock", daemon=True).start()


def _follow(clock: time_machine.Traveller, file: Path, ahead: float) -> None:
    while True:
        time.sleep(POLL_SECONDS)
        wanted = _read(file)
        if wanted != ahead:
            clock.shift(wanted - ahead)
            ahead = wanted


def _read(file: Path) -> float:
    with suppress(FileNotFoundError):
        return float(file.read_text())
    return 0.0
