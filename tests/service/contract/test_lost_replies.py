"""Answers get lost and the client library asks again: nothing may happen twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.contract import eventlog
from service.contract.connections import connect
from service.contract.errors import Problem
from service.contract.job import JobStatus, Lane
from service.contract.record import Record, RecordPolicy
from tests.support.jobs import Claimer, do_all, make_artifact, make_spec
from tests.support.lossy import LossyProxy
from tests.support.valkey import Valkey


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[LossyProxy]:
    valkey.empty()
    with LossyProxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def record(proxy: LossyProxy) -> Iterator[Record]:
    with connect(f"redis://127.0.0.1:{proxy.port}/0") as client:
        client.ping()
        yield Record(client, RecordPolicy(backoff_ms=(0,)))


def types(record: Record, job_id: str) -> list[str]:
    return [event.type for event in eventlog.read(record.redis, job_id)]


def test_submit(record: Record, proxy: LossyProxy) -> None:
    spec = make_spec()
    proxy.lose_the_answer_to(b"submit")
    record.submit(spec)
    assert proxy.lost == 1
    assert types(record, spec.id) == ["queued"]


def test_claim(record: Record, proxy: LossyProxy) -> None:
    record.submit(make_spec())
    proxy.lose_the_answer_to(b"claim")
    task = Claimer(record).must_claim()
    assert proxy.lost == 1
    assert task.fence == 1
    assert record.commit(task, make_artifact(task)).accepted


def test_commit_of_every_task(record: Record, proxy: LossyProxy) -> None:
    spec = make_spec(sections=2)
    record.submit(spec)
    for _ in range(6):
        proxy.lose_the_answer_to(b"commit")
    assert len(do_all(record)) == 6
    assert proxy.lost == 6
    assert record.get(spec.id).status is JobStatus.COMPLETED
    found = types(record, spec.id)
    assert found.count("section.sampled") == found.count("section.completed") == 2
    assert found[-1] == "completed"
    assert found.count("completed") == 1


def test_release_fail_and_cancel(record: Record, proxy: LossyProxy) -> None:
    spec = make_spec()
    record.submit(spec)
    proxy.lose_the_answer_to(b"release")
    record.release(Claimer(record).must_claim())
    proxy.lose_the_answer_to(b"fail")
    fault = Problem(code="fault", title="A fault", detail="Here.", retryable=True)
    record.fail(Claimer(record).must_claim(), fault)
    proxy.lose_the_answer_to(b"cancel")
    assert record.cancel(spec.id) is JobStatus.CANCELLED
    assert proxy.lost == 3
    found = types(record, spec.id)
    assert (found.count("retrying"), found.count("cancelled")) == (1, 1)


def test_renew_and_steps(record: Record, proxy: LossyProxy) -> None:
    record.submit(make_spec())
    render = Claimer(record, Lane.RENDER)
    render.do_one()
    task = render.must_claim()
    proxy.lose_the_answer_to(b"renew")
    proxy.lose_the_answer_to(b"step")
    assert record.renew(task) == "continue"
    assert record.report_step(task, 1, 4) == "continue"
    assert proxy.lost == 2
