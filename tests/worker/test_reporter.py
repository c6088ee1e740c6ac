from __future__ import annotations

import threading
import time

import pytest

from service.contract.connections import connect
from service.contract.events import Picture
from service.contract.job import Artifact, Lane
from service.contract.record import Record, Signal, Task
from tests.support.fleet import Fleet
from tests.support.valkey import free_port
from tests.worker.conftest import Claim
from worker.drain import Drain
from worker.interruptions import TaskCancelled
from worker.lease import Lease
from worker.reporter import QUIET_SECONDS, Reporter

DONE = Artifact(key="jobs/x/render/0", sha256="0" * 64, size_bytes=1, content_type="")


@pytest.fixture
def lease(fleet: Fleet, claim: Claim) -> Lease:
    """On the sampling of a first section."""
    fleet.submit()
    fleet.record.commit(claim(Lane.RENDER), DONE)
    return Lease(claim(Lane.RENDER), 10.0, time.monotonic(), Drain())


def test_a_step_is_the_records_latest_value(fleet: Fleet, lease: Lease) -> None:
    reporter = Reporter(fleet.record)
    reporter.step(lease, 3, 16)
    reporter.settle()
    progress = fleet.record.progress(lease.task.job_id)
    assert (progress.section, progress.step, progress.total_steps) == (0, 3, 16)


def test_the_answer_to_a_report_carries_a_cancel(fleet: Fleet, lease: Lease) -> None:
    reporter = Reporter(fleet.record)
    reporter.step(lease, 1, 16)
    lease.check()
    fleet.record.cancel(lease.task.job_id)
    reporter.step(lease, 2, 16)
    reporter.settle()
    with pytest.raises(TaskCancelled):
        lease.check()


def test_a_report_on_a_task_that_is_anothers_loses_the_lease(fleet: Fleet, lease: Lease) -> None:
    fleet.record.release(lease.task)
    reporter = Reporter(fleet.record)
    reporter.step(lease, 1, 16)
    reporter.settle()
    assert lease.is_refused


def test_a_failed_report_says_nothing_and_is_not_repeated_at_once(
    fleet: Fleet, lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    now = [50.0]
    nowhere = connect(f"redis://127.0.0.1:{free_port()}/0", retries=0)
    reporter = Reporter(Record(nowhere, fleet.record.policy), clock=lambda: now[0])
    reporter.step(lease, 1, 16)
    reporter.step(lease, 2, 16)
    reporter.settle()
    lease.check()
    assert len(caplog.records) == 1
    now[0] += QUIET_SECONDS
    reporter.step(lease, 3, 16)
    reporter.settle()
    assert len(caplog.records) == 2


class Slow(Record):
    """Holds reports of steps back."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet.redis, fleet.record.policy)
        self.begun, self.held, self.told = threading.Event(), threading.Event(), list[int]()

    def report_step(self, task: Task, step: int, total: int) -> Signal:
        self.begun.set()
        assert self.held.wait(10)
        self.told.append(step)
        return super().report_step(task, step, total)


def test_what_waits_behind_a_slow_answer_is_replaced(fleet: Fleet, lease: Lease) -> None:
    """Telling never waits; the last one is told."""
    record = Slow(fleet)
    reporter = Reporter(record)
    reporter.step(lease, 1, 16)
    assert record.begun.wait(10)
    reporter.step(lease, 2, 16)
    reporter.step(lease, 3, 16)
    assert record.told == []
    record.held.set()
    reporter.settle()
    assert record.told == [1, 3]
    assert fleet.record.progress(lease.task.job_id).step == 3


def test_hearing_waits_for_steps_and_not_for_previews(fleet: Fleet, lease: Lease) -> None:
    shown, reporter = threading.Event(), Reporter(fleet.record)

    def slow() -> Picture:
        assert shown.wait(10)
        return Picture(b"", 1, 1, "image/jpeg")

    fleet.record.cancel(lease.task.job_id)
    reporter.step(lease, 1, 16)
    reporter.hear()
    with pytest.raises(TaskCancelled):
        lease.check()
    reporter.preview(lease, 1, 16, slow)
    reporter.hear()
    assert fleet.record.preview(lease.task.job_id) is None
    shown.set()
    reporter.settle()
    assert fleet.record.preview(lease.task.job_id) is not None


def test_a_section_that_is_left_leaves_no_report_behind(fleet: Fleet, lease: Lease) -> None:
    record = Slow(fleet)
    reporter = Reporter(record)

    def interrupted() -> None:
        with reporter.settled():
            reporter.step(lease, 1, 16)
            record.held.set()
            raise TaskCancelled

    with pytest.raises(TaskCancelled):
        interrupted()
    assert record.told == [1]


def test_a_mistake_in_one_report_is_logged_and_costs_nothing_else(
    fleet: Fleet, lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Picture:
        raise ValueError("no picture")

    reporter = Reporter(fleet.record)
    reporter.preview(lease, 1, 16, broken)
    reporter.settle()
    assert "no picture" in caplog.text
    reporter.step(lease, 2, 16)
    reporter.hear()
    assert fleet.record.progress(lease.task.job_id).step == 2
