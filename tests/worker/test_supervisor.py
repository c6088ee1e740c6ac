"""A supervisor owns its process's signals, so each case is a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import wait_for

PROGRAM = """
import logging, os, sys
from worker import supervisor
supervisor.FIRST_PAUSE = 0.05
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
child = [sys.executable, "-c", sys.argv[1]]
commands = {"render": child, "deliver": [sys.executable, "-c", sys.argv[2]]}
sys.exit(supervisor.Supervisor(commands, hopeless=frozenset({78})).run())
"""

SERVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), sys.exit(0)))
print("serves", flush=True)
while True:
    time.sleep(0.02)
"""

PATIENT = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("serves", flush=True)
while len(asked) < 2:
    time.sleep(0.02)
print("asked twice", flush=True)
"""

HOPELESS = "import sys; sys.exit(78)"


class Running:
    def __init__(self, log: Path, render: str, deliver: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, render, deliver], stdout=output, stderr=output
            )

    def text(self) -> str:
        return self._log.read_text()

    def pids(self, name: str) -> list[int]:
        """Process ids of a child's runs so far."""
        return [int(pid) for pid in re.findall(rf"{name} runs as process (\d+)", self.text())]


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(tmp_path / "log", *request.param)
    yield running
    running.process.kill()
    running.process.wait()
    for pid in running.pids("render") + running.pids("deliver"):
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("running", [(SERVES, SERVES)], indirect=True)
def test_a_child_that_dies_is_started_again_and_the_other_left_alone(running: Running) -> None:
    wait_for(lambda: running.text().count("serves") == 2, seconds=10)
    os.kill(running.pids("render")[0], signal.SIGKILL)
    wait_for(lambda: running.text().count("serves") == 3, seconds=10)
    assert "render ended with status -9; starting it again" in running.text()
    assert len(running.pids("render")) == 2
    assert len(running.pids("deliver")) == 1


@pytest.mark.parametrize("running", [(SERVES, SERVES)], indirect=True)
def test_sigterm_reaches_both_children_and_is_waited_for(running: Running) -> None:
    wait_for(lambda: running.text().count("serves") == 2, seconds=10)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert running.text().count("drained") == 2


@pytest.mark.parametrize("running", [(PATIENT, SERVES)], indirect=True)
def test_a_second_sigterm_reaches_them_too(running: Running) -> None:
    wait_for(lambda: running.text().count("serves") == 2, seconds=10)
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "deliver ended with status 0" in running.text(), seconds=10)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert "asked twice" in running.text()


@pytest.mark.parametrize("running", [(HOPELESS, SERVES)], indirect=True)
def test_a_child_that_can_never_run_stops_all(running: Running) -> None:
    assert running.process.wait(10) == 78
    assert len(running.pids("render")) == 1
    assert "render cannot run (status 78); stopping" in running.text()
