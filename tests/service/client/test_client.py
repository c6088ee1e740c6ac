"""The client against the real gateway: whole jobs, refusals, broken connections, damaged files."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.client import Client, RequestRefused, ServiceUnavailable
from service.contract.record import Record
from tests.support.lanes import HandWorker
from tests.support.valkey import Valkey, free_port


@pytest.fixture
def client(gateway: Any) -> Iterator[Client]:
    with Client(gateway.url, retry_seconds=(0.1, 0.1)) as client:
        yield client


@pytest.fixture
def photo(picture: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(picture)
    return path


def test_a_job_from_submit_to_file(
    client: Client, worker: HandWorker, photo: Path, tmp_path: Path
) -> None:
    job = client.submit(photo, "The girl dances.", seconds=2.4, steps=5, seed=None)
    assert (job.status, job.plan.num_sections, job.input.steps) == ("queued", 2, 5)
    video = worker.run_all(2)
    names = [event.type for event in client.events(job.id, after=0)]
    assert names[0] == "queued"
    assert names[-1] == "completed"
    assert client.get(job.id).status == "completed"
    out = tmp_path / "out.mp4"
    link = client.fetch(job.id, out)
    assert out.read_bytes() == worker.storage.get(video.key)
    assert link.sha256 == video.sha256
    assert sorted(path.name for path in tmp_path.glob("*.mp4*")) == ["out.mp4"]


def test_bytes_can_be_submitted_and_a_job_cancelled(client: Client, picture: bytes) -> None:
    job = client.submit(picture, "x")
    assert client.cancel(job.id).status == "cancelled"
    with pytest.raises(RequestRefused, match="already ended") as refused:
        client.cancel(job.id)
    assert refused.value.problem.code == "job_finished"


def test_refusals_carry_their_reasons(client: Client, picture: bytes) -> None:
    with pytest.raises(RequestRefused, match=r"#/steps: .*100") as refused:
        client.submit(picture, "x", steps=1000)
    assert refused.value.problem.status == 422
    with pytest.raises(RequestRefused, match="no such job"):
        client.get("0" * 32)


def test_events_begin_with_a_snapshot_and_end_with_the_job(
    client: Client, worker: HandWorker, picture: bytes
) -> None:
    job = client.submit(picture, "x", seconds=1)
    events = client.events(job.id)
    assert next(events).type == "snapshot"
    worker.run_all(1)
    rest = list(events)
    assert [event.sequence for event in rest] == [2, 3, 4, 5, 6]
    (only,) = client.events(job.id)
    assert only.type == "snapshot"
    assert only.data["status"] == "completed"
    assert list(client.events(job.id, after=6)) == []


def test_events_survive_a_restart_of_the_gateway(
    redis_url: str, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    storage = tmp_path / "storage"
    with open_gateway(redis_url, storage) as first:
        port = int(first.url.rpartition(":")[2])
        client = Client(first.url, retry_seconds=(0.1, 0.2, 0.4, 0.8, 1.6))
        job = client.submit(picture, "x", seconds=1)
        events = client.events(job.id)
        assert next(events).type == "snapshot"
        seen: list[int | None] = []
        reader = threading.Thread(target=lambda: seen.extend(one.sequence for one in events))
        reader.start()
        # Ends the streams as a crash would: in the middle.
        first.app.state.services.hub._followers[job.id].copy().pop().put(None)
        first.stop()
    time.sleep(0.3)
    with open_gateway(redis_url, storage, port=port) as second:
        parts = second.app.state.services
        HandWorker(Record(parts.redis), parts.storage).run_all(1)
        reader.join(20)
        assert seen == [2, 3, 4, 5, 6]
    client.close()


def test_an_outage_is_ridden_out_or_told(tmp_path: Path, picture: bytes, open_gateway: Any) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with (
        Valkey(folder) as server,
        open_gateway(server.url, tmp_path / "storage") as gateway,
        Client(gateway.url, retry_seconds=(0.05,)) as hasty,
        Client(gateway.url, retry_seconds=(0.5, 0.5, 0.5)) as patient,
    ):
        job = hasty.submit(picture, "x")
        server.kill()
        with pytest.raises(ServiceUnavailable, match="job record"):
            hasty.get(job.id)
        with pytest.raises(ServiceUnavailable, match="Nothing was confirmed"):
            hasty.submit(picture, "x")
        threading.Timer(0.6, server.start).start()
        assert patient.get(job.id).status == "queued"


def test_nobody_there_is_unavailable(picture: bytes) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", retry_seconds=(0.01,)) as client:
        with pytest.raises(ServiceUnavailable, match="refused"):
            client.submit(picture, "x")
        with pytest.raises(ServiceUnavailable, match="refused"):
            client.get("0" * 32)


class _OtherServer(BaseHTTPRequestHandler):
    """Answers every video with a link to bytes of another hash, and everything else with HTML."""

    def do_GET(self) -> None:
        if self.path.endswith("/video"):
            url = f"http://127.0.0.1:{self.server.server_port}/bytes"  # type: ignore[attr-defined]
            link = {
                "content_type": "video/mp4",
                "size_bytes": 3,
                "sha256": "0" * 64,
                "num_frames": 1,
                "fps": 30,
                "width": 64,
                "height": 64,
                "duration_seconds": 1.0,
                "url": url,
                "expires_at": "2030-01-01T00:00:00Z",
            }
            self._send(200, json.dumps(link).encode())
        elif self.path == "/bytes":
            self._send(200, b"bad")
        else:
            self._send(502, b"<html>Bad gateway</html>")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def other_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _OtherServer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_damaged_download_leaves_nothing_behind(other_server: str, tmp_path: Path) -> None:
    with (
        Client(other_server) as client,
        pytest.raises(ServiceUnavailable, match="damaged"),
    ):
        client.fetch("0" * 32, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_no_problem_document_is_unavailability(other_server: str) -> None:
    with (
        Client(other_server, retry_seconds=(0.01,)) as client,
        pytest.raises(ServiceUnavailable, match="502"),
    ):
        client.get("0" * 32)
