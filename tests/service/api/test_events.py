"""Event streams over a real socket: snapshot, order, replay, heartbeats, ends and outages."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api.routes import events as route
from service.client.sse import ServerSentEvent, parse_events
from service.contract.events import Picture
from service.contract.job import Lane
from service.contract.record import Record
from tests.support.lanes import HandWorker
from tests.support.processes import wait_for
from tests.support.valkey import Valkey

Submit = Callable[..., dict[str, Any]]


class Stream:
    """An open event stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._events = parse_events(answer.iter_bytes())

    def next(self) -> ServerSentEvent:
        return next(self._events)

    def rest(self) -> list[ServerSentEvent]:
        return list(self._events)

    def until(self, name: str) -> list[ServerSentEvent]:
        seen = []
        for event in self._events:
            seen.append(event)
            if event.name == name:
                return seen
        raise AssertionError(f"{name} never came; {[event.name for event in seen]} did")


@contextmanager
def streaming(url: str, after: int | str | None = None) -> Iterator[Stream]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with httpx.stream("GET", url, headers=headers, timeout=20) as answer:
        yield Stream(answer)


def ids(events: list[ServerSentEvent]) -> list[str | None]:
    return [event.id for event in events]


def test_a_stream_begins_with_the_job_and_ends_with_it(submit: Submit, worker: HandWorker) -> None:
    job = submit()
    with streaming(job["links"]["events"]) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.answer.headers["x-accel-buffering"] == "no"
        first = stream.next()
        assert (first.name, first.id) == ("snapshot", "1")
        assert json.loads(first.data)["data"]["status"] == "queued"
        video = worker.run_all(1)
        events = stream.rest()
    assert [event.name for event in events] == [
        "started",
        "section.started",
        "section.sampled",
        "section.completed",
        "completed",
    ]
    assert ids(events) == ["2", "3", "4", "5", "6"]
    for event in events:
        data = json.loads(event.data)
        assert (data["type"], str(data["sequence"])) == (event.name, event.id)
    clip = json.loads(events[3].data)["data"]["clip"]
    assert httpx.get(clip["url"]).content.endswith(b"deliver 0")
    assert "key" not in clip
    assert json.loads(events[4].data)["data"]["video"]["sha256"] == video.sha256


def test_every_step_is_told_and_none_has_an_id(submit: Submit, worker: HandWorker) -> None:
    job = submit()
    worker.run(Lane.RENDER)
    task = worker.claim(Lane.RENDER)
    with streaming(job["links"]["events"]) as stream:
        stream.next()
        worker.record.report_step(task, 16, 16)
        step = stream.next()
    assert (step.name, step.id) == ("step", None)
    assert json.loads(step.data)["data"] == {
        "section": 0,
        "step": 16,
        "total_steps": 16,
        "total_sections": 1,
    }


def test_a_returning_client_gets_what_it_missed(submit: Submit, worker: HandWorker) -> None:
    job = submit()
    worker.run(Lane.RENDER, 2)
    with streaming(job["links"]["events"], after=2) as stream:
        assert ids([stream.next(), stream.next()]) == ["3", "4"]
        worker.run(Lane.DELIVER, 2)
        assert ids(stream.rest()) == ["5", "6"]
    with streaming(job["links"]["events"], after=0) as stream:
        assert ids(stream.rest()) == ["1", "2", "3", "4", "5", "6"]


def test_after_the_end_there_is_nothing_to_reconnect_for(
    submit: Submit, worker: HandWorker
) -> None:
    job = submit()
    worker.run_all(1)
    with streaming(job["links"]["events"]) as stream:
        (only,) = stream.rest()
        assert (only.name, only.id) == ("snapshot", "6")
    for known in (6, 7, 999):
        with streaming(job["links"]["events"], after=known) as stream:
            assert stream.answer.status_code == 204


@pytest.mark.parametrize("given", ["", "$", "-1", "1-1", "abc", "9" * 20])
def test_an_id_that_is_none_is_refused(http: httpx.Client, submit: Submit, given: str) -> None:
    answer = http.get(f"/jobs/{submit()['id']}/events", headers={"Last-Event-ID": given})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_event_id")


def test_an_id_from_the_future_waits_for_what_comes(submit: Submit, worker: HandWorker) -> None:
    job = submit()
    with streaming(job["links"]["events"], after=50) as stream:
        worker.run(Lane.RENDER)
        assert stream.next().id == "2"


def test_a_quiet_stream_is_kept_open_by_comments(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "HEARTBEAT_SECONDS", 0.1)
    with streaming(submit()["links"]["events"]) as stream:
        lines = stream.answer.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": alive"


def test_many_clients_cost_no_more_connections_to_redis(
    submit: Submit, worker: HandWorker, redis: Redis
) -> None:
    job = submit()
    # The pool of the commands may fill while many ask at once; the readers must not multiply.
    readers = len(redis.client_list(_type="pubsub"))
    seen: list[list[str | None]] = []

    def follow() -> None:
        with streaming(job["links"]["events"]) as stream:
            started.wait()
            seen.append(ids(stream.rest()))

    started = threading.Barrier(21)
    threads = [threading.Thread(target=follow) for _ in range(20)]
    for thread in threads:
        thread.start()
    started.wait()
    assert len(redis.client_list(_type="pubsub")) == readers
    blocked = [each for each in redis.client_list() if each["cmd"] == "xread"]
    assert len(blocked) == 1
    worker.run_all(1)
    for thread in threads:
        thread.join()
    assert seen == [["1", "2", "3", "4", "5", "6"]] * 20


def test_a_client_that_does_not_read_is_closed(
    gateway: Any, submit: Submit, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "SECONDS_TO_SEND", 0.3)
    clients = gateway.app.state.services.metrics.sse_clients
    job = submit()
    # More than the buffers between the two can hold.
    text = json.dumps({"reason": "x" * 500_000})
    for sequence in range(2, 42):
        redis.xadd(
            f"framepack:job:{job['id']}:events",
            {"type": "retrying", "at": 0, "data": text},
            id=f"{sequence}-0",
        )
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0)) as client:
        head = f"GET /jobs/{job['id']}/events HTTP/1.1\r\nHost: x\r\n"
        client.sendall(f"{head}Last-Event-ID: 0\r\n\r\n".encode())
        assert client.recv(1) == b"H"
        wait_for(lambda: clients._value.get() == 0)


def test_an_outage_of_redis_loses_no_event(
    tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with Valkey(folder) as server, open_gateway(server.url, tmp_path / "storage") as gateway:
        parts = gateway.app.state.services
        form = {"prompt": "x", "seconds": "1"}
        job = httpx.post(f"{gateway.url}/jobs", data=form, files={"image": picture}).json()
        worker = HandWorker(Record(parts.redis), parts.storage)
        with streaming(job["links"]["events"]) as stream:
            assert stream.next().name == "snapshot"
            server.kill()
            time.sleep(0.5)
            server.start()
            # While the reader is still finding its way back.
            worker.run_all(1)
            assert ids(stream.rest()) == ["2", "3", "4", "5", "6"]


def test_a_preview_is_told_and_has_no_id(submit: Submit, worker: HandWorker) -> None:
    job = submit()
    worker.run(Lane.RENDER)
    task = worker.claim(Lane.RENDER)
    with streaming(job["links"]["events"]) as stream:
        stream.next()
        worker.record.report_preview(task, 4, 16, Picture(b"\x00\xffjpeg", 64, 48, "image/jpeg"))
        preview = stream.next()
    assert (preview.name, preview.id) == ("preview", None)
    data = json.loads(preview.data)["data"]
    assert base64.b64decode(data.pop("image")) == b"\x00\xffjpeg"
    assert data == {
        "section": 0,
        "step": 4,
        "total_steps": 16,
        "width": 64,
        "height": 48,
        "content_type": "image/jpeg",
    }
