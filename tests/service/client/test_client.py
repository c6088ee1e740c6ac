"""Both clients against the real gateway: jobs, refusals, broken connections, damaged files."""

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.client import Client, RequestRefused, ServiceUnavailable
from service.contract.record import Record
from tests.support.awaiting import open_client
from tests.support.lanes import HandWorker
from tests.support.processes import wait_for
from tests.support.valkey import Valkey, free_port

OpenClient = Callable[..., AbstractContextManager[Client]]


@pytest.fixture(params=["blocking", "async"])
def open_a_client(request: pytest.FixtureRequest) -> OpenClient:
    """Opens a client of either kind: (url, **options)."""
    return functools.partial(open_client, request.param)


@pytest.fixture
def client(gateway: Any, open_a_client: OpenClient) -> Iterator[Client]:
    with open_a_client(gateway.url, retry_seconds=(0.1, 0.1)) as client:
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


def test_without_a_picture_it_is_text_to_video(client: Client) -> None:
    later = [{"seconds": 2.0, "prompt": "She bows."}]
    job = client.submit(None, "The girl dances.", size="80x48", later_prompts=later)
    assert (job.plan.width, job.plan.height, job.plan.num_frames) == (80, 48, 141)
    assert [each.prompt for each in job.input.later_prompts] == ["She bows."]
    with pytest.raises(RequestRefused, match=r"#/order: .*give an image, or choose"):
        client.submit(None, "The girl dances.", order="inverted")


def test_a_job_is_waited_for(client: Client, worker: HandWorker, picture: bytes) -> None:
    assert client.dry_run(picture, "x", seconds=1).plan.num_sections == 1
    job = client.submit(picture, "x", seconds=1, metadata={"shot": "1"})
    assert client.wait(job.id, 0).status == "queued"
    threading.Timer(0.3, lambda: worker.run_all(1)).start()
    assert client.wait(job.id).status == "completed"
    assert client.wait(job.id, 30).metadata == {"shot": "1"}
    assert [each.id for each in client.list(metadata={"shot": "1"})] == [job.id]


def test_bytes_can_be_submitted_and_a_job_cancelled(client: Client, picture: bytes) -> None:
    job = client.submit(picture, "x")
    assert client.cancel(job.id).status == "cancelled"
    with pytest.raises(RequestRefused, match="already ended") as refused:
        client.cancel(job.id)
    assert refused.value.problem.code == "job_finished"


def test_jobs_are_listed_page_after_page_and_deleted(
    client: Client, worker: HandWorker, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.calls.MOST_A_PAGE", 2)
    known = [client.submit(picture, "x", seconds=1, seed=seed).id for seed in range(5)]
    assert [job.id for job in client.list()] == known[::-1]
    assert [job.id for job in client.list(limit=3)] == known[:1:-1]
    worker.run_all(1)
    assert [job.id for job in client.list("completed")] == known[:1]
    assert [job.id for job in client.list("failed", "cancelled")] == []
    with pytest.raises(RequestRefused, match="state in which"):
        client.delete(known[1])
    client.delete(known[0])
    assert [job.id for job in client.list()] == known[:0:-1]
    with pytest.raises(RequestRefused, match="no such job"):
        client.delete(known[0])


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
    redis_url: str, tmp_path: Path, picture: bytes, open_gateway: Any, open_a_client: OpenClient
) -> None:
    storage = tmp_path / "storage"
    port = free_port()
    pauses = (0.1, 0.2, 0.4, 0.8, 1.6)
    with open_a_client(f"http://127.0.0.1:{port}", retry_seconds=pauses) as client:
        _follow_through_a_restart(client, redis_url, storage, port, picture, open_gateway)


def _follow_through_a_restart(
    client: Client, redis_url: str, storage: Path, port: int, picture: bytes, open_gateway: Any
) -> None:
    with open_gateway(redis_url, storage, port=port) as first:
        job = client.submit(picture, "x", seconds=1)
        events = client.events(job.id)
        assert next(events).type == "snapshot"
        seen: list[int | None] = []
        reader = threading.Thread(target=lambda: seen.extend(one.sequence for one in events))
        reader.start()
        # Ends the streams as a crash would: in the middle.
        following = first.app.state.services.hub._followers
        wait_for(lambda: following.get(job.id))
        following[job.id].copy().pop().put(None)
        first.stop()
    time.sleep(0.3)
    with open_gateway(redis_url, storage, port=port) as second:
        parts = second.app.state.services
        HandWorker(Record(parts.redis), parts.storage).run_all(1)
        reader.join(20)
        assert seen == [2, 3, 4, 5, 6]


def test_an_outage_is_ridden_out_or_told(tmp_path: Path, picture: bytes, open_gateway: Any) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with (
        Valkey(folder) as server,
        open_gateway(server.url, tmp_path / "storage") as gateway,
        Client(gateway.url, retry_seconds=()) as hasty,
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


def test_nobody_there_is_unavailable(picture: bytes, open_a_client: OpenClient) -> None:
    with open_a_client(f"http://127.0.0.1:{free_port()}", retry_seconds=(0.01,)) as client:
        with pytest.raises(ServiceUnavailable):
            client.submit(picture, "x")
        with pytest.raises(ServiceUnavailable):
            client.get("0" * 32)


class _LosesAnswers(httpx.BaseTransport):
    """Passes requests on to the gateway and loses the first answers to a path."""

    def __init__(self, path: str, answers: int = 1) -> None:
        self._path = path
        self._answers = answers
        self._network = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._network.handle_request(request)
        answer.read()
        if request.url.path.endswith(self._path) and self._answers:
            self._answers -= 1
            raise httpx.ReadError("the answer was lost", request=request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def close(self) -> None:
        self._network.close()


def test_a_submission_whose_answer_is_lost_is_one_job(
    gateway: Any, open_a_client: OpenClient, picture: bytes, redis: Redis
) -> None:
    transport = _LosesAnswers("/jobs", answers=2)
    with open_a_client(gateway.url, retry_seconds=(0.01, 0.01), transport=transport) as client:
        job = client.submit(picture, "x")
    assert redis.smembers("framepack:open") == {job.id}
    transport.close()


def test_a_cancel_whose_answer_is_lost_is_a_cancel(
    gateway: Any, open_a_client: OpenClient, picture: bytes
) -> None:
    transport = _LosesAnswers("/cancel")
    with open_a_client(gateway.url, retry_seconds=(0.01,), transport=transport) as client:
        job = client.submit(picture, "x")
        assert client.cancel(job.id).status == "cancelled"
        with pytest.raises(RequestRefused, match="already ended"):
            client.cancel(job.id)
    transport.close()


def test_a_service_that_asks_for_patience_gets_it(open_a_client: OpenClient) -> None:
    times: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        problem = {"type": "/problems/rate_limited", "title": "Too many requests", "status": 429}
        problem |= {"detail": "Slow down.", "code": "rate_limited", "retryable": True}
        after = "1" if len(times) == 1 else "3600"
        return httpx.Response(429, json=problem, headers={"Retry-After": after})

    transport = httpx.MockTransport(answer)
    with (
        open_a_client("http://gateway", retry_seconds=(0.0,) * 5, transport=transport) as client,
        pytest.raises(RequestRefused, match="Too many requests"),
    ):
        client.get("0" * 32)
    # Waited for once as asked; an hour is a refusal.
    assert len(times) == 2
    assert times[1] - times[0] >= 1.0


def test_a_text_with_every_kind_of_line_end_arrives_whole(client: Client, picture: bytes) -> None:
    prompt = "one\u2028two\u2029three\nfour"
    job = client.submit(picture, prompt)
    events = client.events(job.id)
    assert next(events).data["input"]["prompt"] == prompt
    events.close()  # type: ignore[attr-defined]


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


def test_a_damaged_download_leaves_nothing_behind(
    other_server: str, tmp_path: Path, open_a_client: OpenClient
) -> None:
    with (
        open_a_client(other_server) as client,
        pytest.raises(ServiceUnavailable, match="damaged"),
    ):
        client.fetch("0" * 32, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_no_problem_document_is_unavailability(
    other_server: str, open_a_client: OpenClient
) -> None:
    with (
        open_a_client(other_server, retry_seconds=(0.01,)) as client,
        pytest.raises(ServiceUnavailable, match="502"),
    ):
        client.get("0" * 32)
