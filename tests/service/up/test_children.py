"""Child processes: started again with pauses, stopped for sure, never orphaned."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.up import children as module
from service.up.children import CannotRun, Child, ChildSpec, stop_all, wait_until
from tests.support.processes import alive, wait_for


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def build(program: str, *, grace: float = 5.0, stdin: bytes = b"") -> Child:
        command = [sys.executable, "-u", "-c", program]
        spec = ChildSpec(f"child{len(made)}", command, dict(os.environ), stdin, grace)
        made.append(Child(spec, tmp_path))
        return made[-1]

    yield build
    stop_all(made)


def test_output_goes_to_the_log_and_input_comes_from_the_spec(make: Callable[..., Child]) -> None:
    child = make("import sys; print(sys.stdin.read().upper(), flush=True)", stdin=b"settings")
    child.start()
    wait_for(lambda: "SETTINGS" in child.last_lines())


def test_a_child_that_dies_is_started_again_after_longer_and_longer_pauses(
    make: Callable[..., Child],
) -> None:
    child = make("raise SystemExit(3)")
    child.start()
    news: list[str] = []
    started = time.monotonic()

    def twice() -> bool:
        message = child.tend()
        news.extend([message] if message else [])
        return len(news) == 2

    wait_for(twice)
    assert "ended with status 3; starting it again in 0.5 s" in news[0]
    assert "again in 1 s" in news[1]
    assert time.monotonic() - started > module.FIRST_PAUSE


def test_a_child_that_is_misconfigured_is_not_started_again(make: Callable[..., Child]) -> None:
    child = make("import os; print('wrong device', flush=True); os._exit(os.EX_CONFIG)")
    child.start()
    with pytest.raises(CannotRun, match=r"cannot run as configured:\nwrong device"):
        wait_for(child.tend)


def test_a_killed_child_is_named_with_its_signal(make: Callable[..., Child]) -> None:
    child = make("import time; time.sleep(60)")
    child.start()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: "was killed by SIGKILL" in (child.tend() or ""))


def test_stopping_asks_first_and_kills_after_the_grace(make: Callable[..., Child]) -> None:
    polite = make("import time\ntry: time.sleep(60)\nexcept BaseException: pass")
    stubborn = make(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(60)",
        grace=0.3,
    )
    for child in (polite, stubborn):
        child.start()
    wait_for(lambda: "deaf" in stubborn.last_lines())
    pids = [child.pid for child in (polite, stubborn)]
    started = time.monotonic()
    stop_all([polite, stubborn])
    assert time.monotonic() - started < 3
    assert not any(alive(pid) for pid in pids if pid is not None)


def test_waiting_for_a_child_that_dies_shows_its_last_words(make: Callable[..., Child]) -> None:
    child = make("raise SystemExit('no such option')")
    child.start()
    with pytest.raises(CannotRun, match=r"child0 ended:\n.*no such option"):
        wait_until(lambda: False, child, 10)


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, sys, time
from service.up.children import CannotRun, Child, ChildSpec
command = [sys.executable, "-c", "import time; time.sleep(60)"]
child = Child(ChildSpec("c", command, dict(os.environ)), pathlib.Path({str(tmp_path)!r}))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root) as up:
        assert up.stdout is not None
        pid = int(up.stdout.readline())
        # The parent's name is gone from the command line once the shim has become the command.
        wait_for(lambda: b"tied.py" not in Path(f"/proc/{pid}/cmdline").read_bytes())
        assert alive(pid)
        up.kill()
    wait_for(lambda: not alive(pid))
