"""`Prefer: wait`: the answer comes with the job's end, and not before, unless time is up."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.api.waiting import MOST_SECONDS
from tests.service.conftest import RunningGateway
from tests.support.lanes import HandWorker
from tests.support.processes import wait_for

Submit = Callable[..., dict[str, Any]]


@contextmanager
def later(work: Callable[[], object], seconds: float = 0.3) -> Iterator[None]:
    timer = threading.Timer(seconds, work)
    timer.start()
    yield
    timer.join()


def in_progress(gateway: RunningGateway) -> float | None:
    registry: CollectorRegistry = gateway.app.state.services.metrics.registry
    return registry.get_sample_value("framepack_http_requests_in_progress")


def test_a_submission_is_answered_when_its_job_has_ended(
    http: httpx.Client, picture: bytes, worker: HandWorker
) -> None:
    form = {"prompt": "x", "seconds": "1"}
    with later(lambda: worker.run_all(1)):
        answer = http.post(
            "/jobs", data=form, files={"image": picture}, headers={"Prefer": "wait=15"}
        )
    assert (answer.status_code, answer.json()["status"]) == (201, "completed")
    assert answer.headers["preference-applied"] == "wait=15"
    assert answer.headers["location"] == answer.json()["links"]["self"]
    assert "retry-after" not in answer.headers


def test_time_that_is_up_tells_how_it_stands(http: httpx.Client, picture: bytes) -> None:
    form = {"prompt": "x", "seconds": "1"}
    answer = http.post("/jobs", data=form, files={"image": picture}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert int(answer.headers["retry-after"]) > 0
    job = answer.headers["location"]
    tag = http.get(job).headers["etag"]
    same = http.get(job, headers={"Prefer": "wait=1", "If-None-Match": tag})
    assert (same.status_code, same.headers["preference-applied"]) == (304, "wait=1")


def test_a_poll_is_answered_at_the_end_and_not_before(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit()["links"]["self"]
    with later(lambda: worker.run_all(1)):
        assert http.get(job, headers={"Prefer": "wait=15"}).json()["status"] == "completed"
    # Of a job that has ended nothing is waited for.
    assert http.get(job, headers={"Prefer": "wait=60"}).json()["status"] == "completed"


def test_many_wait_and_others_are_served(
    gateway: RunningGateway, http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    """More wait than there are threads."""
    job = submit()["links"]["self"]

    def poll(_: int) -> Any:
        return httpx.get(job, headers={"Prefer": "wait=30"}, timeout=40).json()["status"]

    with ThreadPoolExecutor(60) as pool:
        polls = pool.map(poll, range(60))
        wait_for(lambda: in_progress(gateway) == 60)
        assert http.get("/jobs").status_code == 200
        worker.run_all(1)
        assert set(polls) == {"completed"}
    wait_for(lambda: in_progress(gateway) == 0)


def test_who_hangs_up_is_waited_for_no_longer(
    gateway: RunningGateway, http: httpx.Client, submit: Submit
) -> None:
    job = submit()["links"]["self"]
    with pytest.raises(httpx.ReadTimeout):
        http.get(job, headers={"Prefer": "wait=60"}, timeout=0.3)
    wait_for(lambda: in_progress(gateway) == 0)


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=99", MOST_SECONDS),
        ('respond-async, WAIT="7"; x=y', 7),
        ("wait=3, wait=9", 3),
        ("wait=soon", None),
        ("wait=-1", None),
        ("handling=strict", None),
        ("wait=0", None),
    ],
)
def test_a_preference_is_followed_or_ignored(
    http: httpx.Client, submit: Submit, worker: HandWorker, prefer: str, applied: int | None
) -> None:
    job = submit()["links"]["self"]
    worker.run_all(1)
    answer = http.get(job, headers={"Prefer": prefer})
    assert answer.status_code == 200
    expected = None if applied is None else f"wait={applied}"
    assert answer.headers.get("preference-applied") == expected
