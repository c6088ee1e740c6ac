"""`python -m service up` as a user runs it: start, crash, stop, start again, and lose nothing."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.client import Client
from service.up.children import CannotRun
from service.up.parts import Places, environment, thread_settings, valkey
from service.up.stack import Stack
from tests.support.processes import alive, children_of, wait_for

ROOT = Path(__file__).parents[3]


@dataclass
class Up:
    process: subprocess.Popen[str]
    log: Path
    url: str = ""
    api_key: str = ""

    def pid_of(self, words: str) -> int:
        """The child whose command line holds these words."""
        found = [
            pid
            for pid in children_of(self.process.pid)
            if words in Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
        ]
        assert len(found) == 1, f"{words}: {found}"
        return found[0]

    def started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        match = re.search(r"runs at (http://\S+)", self.log.read_text())
        self.url = match[1] if match else ""
        key = re.search(r"FRAMEPACK_API_KEY=(fp_\w+)", self.log.read_text())
        self.api_key = key[1] if key else ""
        return bool(match)

    def stop(self, number: signal.Signals) -> float:
        """Stop it by a signal; seconds until everything is gone."""
        family = children_of(self.process.pid)
        begun = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(30) == 0, self.log.read_text()
        assert not any(alive(pid) for pid in family)
        return time.monotonic() - begun


@contextmanager
def up(data: Path, *options: str, **settings: str) -> Iterator[Up]:
    command = [sys.executable, "-m", "service", "up", "--port", "0", "--data", str(data), *options]
    log = data.with_suffix(f".{time.monotonic_ns()}.log")
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, stderr=out, cwd=ROOT, text=True, env={**os.environ, **settings}
        ) as process,
    ):
        try:
            yield Up(process, log)
        finally:
            process.kill()


@pytest.mark.slow
def test_jobs_survive_crashes_of_every_part_and_restarts_of_the_whole(
    tmp_path: Path, picture: bytes
) -> None:
    data = tmp_path / "my data"
    with up(data) as service:
        wait_for(service.started, 60)
        with Client(service.url, api_key=service.api_key) as client:
            first = client.submit(picture, "x", seconds=1, steps=2)
            for part in ("valkey-server", "service gateway", "--lane deliver"):
                os.kill(service.pid_of(part), signal.SIGKILL)
            kinds = [event.type for event in client.events(first.id)]
            assert kinds[-1] in ("completed", "snapshot")
            video = client.fetch(first.id, tmp_path / "first.mp4")
            assert (video.num_frames, video.fps) == (37, 30)
            assert b"ftyp" in (tmp_path / "first.mp4").read_bytes()[:16]
            second = client.submit(picture, "x", seconds=60, steps=2)
            wait_for(lambda: client.get(second.id).progress.sections_sampled > 0, 60)
        first_key = service.api_key
        news = service.log.read_text()
        assert "valkey was killed by SIGKILL; starting it again" in news
        assert service.stop(signal.SIGTERM) < 20

    with up(data) as service:
        wait_for(service.started, 60)
        # The key that was printed at the first start still opens the service.
        with Client(service.url, api_key=first_key) as client:
            assert client.get(first.id).status == "completed"
            assert client.video(first.id).sha256 == video.sha256
            found = client.get(second.id)
            assert found.status == "running"
            assert found.progress.sections_sampled > 0
            before = found.progress.sections_completed
            wait_for(lambda: client.get(second.id).progress.sections_completed > before, 90)
        assert service.stop(signal.SIGINT) < 20


def test_two_cannot_share_a_data_folder(tmp_path: Path) -> None:
    program = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2)\n"
    program += "print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(CannotRun, match="another service runs on"), Stack(tmp_path):
            pass
        other.kill()


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotRun, match=f"{port}.*choose another --port"):
            Stack(tmp_path, port=port).__enter__()
    # The folder is free again.
    with pytest.raises(CannotRun, match="choose another --port"):
        Stack(tmp_path, host="203.0.113.1").__enter__()


PLACES = Places(Path("/data"), "0.0.0.0", 8000, 6000, "password", "secret", "pepper")


def test_secrets_do_not_stand_on_command_lines(tmp_path: Path) -> None:
    places = Places(tmp_path, "127.0.0.1", 8000, 6000, "password", "secret", "pepper")
    spec = valkey(places)
    assert "password" not in " ".join(spec.command)
    assert b"requirepass password" in spec.stdin
    assert b"appendfsync always" in spec.stdin
    assert "password" not in repr(spec)


def test_what_the_user_set_for_torch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    found = environment(PLACES, ["tiny"])
    assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"]) == ("7", "passive")
    assert found["FRAMEPACK_PUBLIC_URL"] == "http://127.0.0.1:8000"
    assert found["FRAMEPACK_PRESETS"] == "tiny"
    assert thread_settings(1)["OMP_NUM_THREADS"] == "1"
    assert thread_settings(16)["OMP_NUM_THREADS"] == "8"
