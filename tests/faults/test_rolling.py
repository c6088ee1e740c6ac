"""Everything is replaced under load, one process after the other: every job ends, undisturbed."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from framepack.models.tiny import build_folder
from service.client.client import Client
from service.client.errors import ServiceUnavailable
from service.contract import events
from service.contract.job import Lane
from tests.faults.stack import Gateway
from tests.support.fleet import Fleet, Worker, picture, wait_for
from tests.support.valkey import Valkey, free_port

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"prompt": "a red ball", "seconds": 3.6, "steps": 30, "seed": 7}
"""Three sections."""

USERS = 4


class User:
    """Wants one video after the other, and hears events to each one's end, whoever answers."""

    def __init__(self, url: str, over: threading.Event) -> None:
        self.url, self._over = url, over
        self.heard: dict[str, list[str]] = {}
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with Client(self.url, timeout=30.0) as client:
            while not self._over.is_set():
                job_id = client.submit(picture(), **REQUEST).id
                types = self.heard[job_id] = []
                last = 0
                while not types or types[-1] not in events.TERMINAL:
                    with suppress(ServiceUnavailable, httpx.HTTPError):
                        for event in client.events(job_id, after=last):
                            if event.sequence is not None:
                                last = event.sequence
                                types.append(event.type)


@pytest.mark.timeout(400)
def test_a_rolling_restart_under_load_ends_every_job(tmp_path: Path) -> None:
    build_folder(tmp_path / "nano", size="nano")
    (tmp_path / "valkey").mkdir()
    with (
        Valkey(tmp_path / "valkey") as valkey,
        Fleet(valkey.url, tmp_path / "nano", tmp_path, lease_seconds="10") as fleet,
    ):
        workers = {lane: [fleet.start_lane(lane) for _ in range(2)] for lane in Lane}
        port = free_port()
        gateway = start_gateway(fleet, port, tmp_path)
        try:
            over = threading.Event()
            users = [User(f"http://127.0.0.1:{port}", over) for _ in range(USERS)]
            for user in users:
                user.thread.start()
            wait_for(lambda: all(user.heard for user in users), 90)
            gateway = restarted(gateway, fleet, port, tmp_path)
            for lane in Lane:
                for number in range(2):
                    workers[lane][number] = replaced(workers[lane][number], fleet, lane)
            gateway = restarted(gateway, fleet, port, tmp_path)
            over.set()
            for user in users:
                user.thread.join(120)
                assert not user.thread.is_alive()
        finally:
            gateway.end()
        heard = {job_id: types for user in users for job_id, types in user.heard.items()}
        told = {job_id: fleet.names(job_id) for job_id in heard}
        videos = {fleet.video(job_id) for job_id in heard}

    assert heard == told  # each event once and in order, through every restart
    assert len(videos) == 1
    for names in told.values():
        assert names[-1] == events.COMPLETED
        assert names.count(events.SECTION_STARTED) == names.count(events.SECTION_SAMPLED) == 3
        assert events.RETRYING not in names


def start_gateway(fleet: Fleet, port: int, folder: Path) -> Gateway:
    told = {
        **fleet.environment,
        "FRAMEPACK_AUTH": "open",
        "FRAMEPACK_SIGNING_SECRET": "secret",
        "FRAMEPACK_PUBLIC_URL": f"http://127.0.0.1:{port}",
    }
    gateway = Gateway(port, told, folder / "gateway.log")
    wait_for(lambda: _answers(port), 60)
    return gateway


def restarted(gateway: Gateway, fleet: Fleet, port: int, folder: Path) -> Gateway:
    """The next one, once this one has ended as it was told to."""
    assert gateway.stop() in (0, -signal.SIGTERM)  # uvicorn raises it again when it has stopped
    return start_gateway(fleet, port, folder)


def replaced(worker: Worker, fleet: Fleet, lane: Lane) -> Worker:
    """Another one, which serves before this one is told to stop, and has ended its section."""
    successor = fleet.start_lane(lane)
    successor.wait_until_ready()
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    return successor


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False
