"""What waiting jobs are told of their turn, as the API tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from redis import Redis
from rq import SimpleWorker

from service.api import outlook
from service.contract.job import Lane
from tests.service.conftest import RunningGateway
from tests.support.lanes import HandWorker

Submit = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRESH_SECONDS", "LEAST_SECONDS", "PATIENCE"):
        monkeypatch.setattr(outlook, name, 0)


@pytest.fixture
def set_pace(redis: Redis) -> Callable[..., None]:
    """Sets what a section of an accepted job takes in each lane, in seconds."""

    def set_it(job: dict[str, Any], render: float, deliver: float = 0.0) -> None:
        cost = float(str(redis.hget(f"framepack:job:{job['id']}", "cost")))
        redis.hset("framepack:pace", "tiny", str(1000 * render / cost))
        redis.hset("framepack:pace", "deliver tiny", str(1000 * deliver / cost))

    return set_it


def eta(http: httpx.Client, job: dict[str, Any]) -> float | None:
    found: float | None = http.get(f"/jobs/{job['id']}").json()["eta_seconds"]
    return found


def listening(gateway: RunningGateway) -> SimpleWorker:
    """A worker of the preset `tiny` that is registered and does nothing."""
    queues = gateway.app.state.services.bells.queues(Lane.RENDER, ["tiny"])
    worker = SimpleWorker(queues, connection=queues[0].connection)
    worker.register_birth()  # type: ignore[no-untyped-call]
    return worker


def test_a_waiting_job_has_an_estimate_once_something_was_measured(
    gateway: RunningGateway, http: httpx.Client, submit: Submit, set_pace: Callable[..., None]
) -> None:
    first = submit(seconds="3.6")
    assert eta(http, first) is None, "nothing is measured"
    set_pace(first, render=10, deliver=1)
    assert eta(http, first) is None, "nobody serves it"
    worker = listening(gateway)
    second = submit(seconds="2.4")
    assert eta(http, first) == pytest.approx(31)
    assert eta(http, second) == pytest.approx(51)
    # When the lane that delivers is the slower one, it decides.
    set_pace(first, render=10, deliver=20)
    assert eta(http, first) == pytest.approx(60)
    # A dead worker stays registered for a while and counts no more.
    worker.connection.delete(worker.key)
    assert eta(http, first) is None


def test_polls_are_asked_for_more_rarely_in_a_long_queue(
    gateway: RunningGateway, http: httpx.Client, submit: Submit, set_pace: Callable[..., None]
) -> None:
    job = submit(seconds="1")
    listening(gateway)
    asked = []
    for seconds in (4, 40, 4000):
        set_pace(job, render=seconds)
        asked.append(int(http.get(job["links"]["self"]).headers["retry-after"]))
    assert asked == [2, 10, 30]


def test_a_running_job_has_one_from_its_first_moment(
    http: httpx.Client, submit: Submit, worker: HandWorker, set_pace: Callable[..., None]
) -> None:
    job = submit(seconds="2.4")
    set_pace(job, render=10)
    worker.run(Lane.RENDER)
    worker.claim(Lane.RENDER)
    assert eta(http, job) == pytest.approx(20, abs=1)


def test_a_dry_run_tells_the_wait(
    gateway: RunningGateway,
    http: httpx.Client,
    submit: Submit,
    picture: bytes,
    set_pace: Callable[..., None],
) -> None:
    def estimate(**fields: str) -> Any:
        form = {"prompt": "x", "seconds": "1", **fields}
        answer = http.post("/jobs?dry_run=true", data=form, files={"image": picture})
        return answer.json()["estimate"]

    job = submit(seconds="3.6")
    set_pace(job, render=10)
    found = estimate()
    assert found["measured"]
    assert (found["gpu_seconds"], found["backlog_gpu_seconds"]) == (10, 30)
    assert (found["wait_seconds"], found["eta_seconds"]) == (30, 40)
    low = estimate(priority="low")
    assert (low["wait_seconds"], low["eta_seconds"]) == (30, 40)


def test_presets_that_share_no_worker_do_not_wait_for_each_other() -> None:
    look = outlook._Look(
        workers={"a": frozenset("12"), "b": frozenset("2"), "c": frozenset("3"), "d": frozenset()}
    )
    assert look.group("a") == look.group("b") == (frozenset("ab"), frozenset("12"))
    assert look.group("c") == (frozenset("c"), frozenset("3"))
    assert look.group("d") == (frozenset("d"), frozenset())
