from __future__ import annotations

import threading
import time

import pytest

from service.contract.connections import connect
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


def test_a_slow_server_does_not_stop_the_next_step(fleet: Fleet, lease: Lease) -> None:
    """The first report is held back; only the second has to wait for it, and none is left out."""
    held, told = threading.Event(), list[int]()

    class Slow(Record):
        def report_step(self, task: Task, step: int, total: int) -> Signal:
            assert held.wait(10)
            told.append(step)
            return super().report_step(task, step, total)

    reporter = Reporter(Slow(fleet.redis, fleet.record.policy))
    reporter.step(lease, 1, 16)
    assert told == []
    held.set()
    reporter.step(lease, 2, 16)
    reporter.settle()
    assert told == [1, 2]
    assert fleet.record.progress(lease.task.job_id).step == 2
