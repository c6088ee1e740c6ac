"""ttl_seconds and timeout_seconds: a late job ends on the server's clock, and says why."""

import time
from typing import Any

import pytest

from service.contract.errors import JobFinished
from service.contract.job import JobRequest, JobStatus, Lane
from service.contract.record import Record, Signal
from tests.support.jobs import Claimer, do_all, make_artifact, make_spec


@pytest.fixture
def record(redis: Any) -> Record:
    return Record(redis)


def submitted(record: Record, **fields: int) -> str:
    request = JobRequest(prompt="x", preset="tiny", seed=1, **fields)  # type: ignore[arg-type]
    spec = make_spec(request=request)
    record.submit(spec)
    return spec.id


def error_of(record: Record, job_id: str) -> str:
    error = record.get(job_id).error
    assert error is not None
    return error.code


def test_a_job_nobody_begins_in_time_fails(record: Record) -> None:
    late, patient = submitted(record, ttl_seconds=1), submitted(record)
    record.sweep()
    assert record.get(late).status is JobStatus.QUEUED
    time.sleep(1.05)
    assert Claimer(record).must_claim().job_id == patient, "a late job was begun"
    assert record.get(late).status is JobStatus.FAILED
    assert error_of(record, late) == "not_started_in_time"
    with pytest.raises(JobFinished):
        record.cancel(late)


def test_a_job_that_was_begun_in_time_may_last(record: Record) -> None:
    job_id = submitted(record, ttl_seconds=1)
    Claimer(record).do_one()
    time.sleep(1.05)
    record.sweep()
    assert record.get(job_id).status is JobStatus.RUNNING
    do_all(record)
    assert record.get(job_id).status is JobStatus.COMPLETED


@pytest.mark.parametrize("report", ["renew", "step"])
def test_work_beyond_the_timeout_ends_at_the_next_report(record: Record, report: str) -> None:
    job_id = submitted(record, timeout_seconds=1)
    worker = Claimer(record)
    worker.do_one()
    task = worker.must_claim()
    assert record.report_step(task, 1, 9) is Signal.CONTINUE
    time.sleep(1.05)
    told = record.renew(task) if report == "renew" else record.report_step(task, 2, 9)
    assert told is Signal.CANCEL
    assert record.get(job_id).status is JobStatus.FAILED
    assert error_of(record, job_id) == "timed_out"
    record.release(task)
    assert worker.claim() is None


def test_only_the_time_of_workers_counts_and_is_summed(record: Record) -> None:
    job_id = submitted(record, timeout_seconds=1)
    time.sleep(1.05)
    worker = Claimer(record)
    for _ in range(2):
        task = worker.must_claim()
        time.sleep(0.3)
        assert record.commit(task, make_artifact(task)).accepted
    assert record.get(job_id).status is JobStatus.RUNNING
    task = worker.must_claim()
    time.sleep(0.5)
    record.commit(task, make_artifact(task))
    assert error_of(record, job_id) == "timed_out"
    assert Claimer(record, Lane.DELIVER).claim() is None
