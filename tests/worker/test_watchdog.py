"""The watchdog ends a process, so each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

PRELUDE = """
import ctypes, time
from worker.watchdog import Watchdog

def hold_the_interpreter(seconds):
    "A C call that never lets another Python thread run, as a stuck extension does."
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
"""

STUCK = """
with Watchdog(lease_seconds=0.2, hard_maximum_seconds=60, grace_seconds=0.2).watching():
    hold_the_interpreter(20)
"""

OVERDUE = """
watchdog = Watchdog(lease_seconds=0.3, hard_maximum_seconds=0.5, grace_seconds=0.2)
with watchdog.watching():
    while True:  # the lease is renewed for ever, the task never ends
        time.sleep(0.1)
        watchdog.feed()
"""

WELL = """
watchdog = Watchdog(lease_seconds=0.5, hard_maximum_seconds=60, grace_seconds=0.1)
with watchdog.watching():
    for _ in range(12):
        time.sleep(0.1)
        watchdog.feed()
watchdog.feed()  # a renewal that was under way when the task ended
time.sleep(1.0)
print("went on")
"""


def run(program: str) -> tuple[subprocess.CompletedProcess[str], float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done, time.monotonic() - began


@pytest.mark.parametrize("program", [STUCK, OVERDUE])
def test_a_process_that_nothing_else_can_end_is_ended(program: str) -> None:
    done, seconds = run(program)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "most recent call first" in done.stderr
    assert seconds < 10


def test_a_fed_watchdog_does_nothing_and_an_ended_watch_is_over() -> None:
    done, _ = run(WELL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
