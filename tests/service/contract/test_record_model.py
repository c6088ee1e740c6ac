"""Any order of transitions by several actors keeps the record's promises (hypothesis)."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from service.contract import eventlog, events
from service.contract.connections import connect
from service.contract.errors import JobConflict, JobFinished, LeaseLost, Problem
from service.contract.job import Job, Lane, apply
from service.contract.record import Record, RecordPolicy, Task
from tests.support.jobs import Claimer, make_artifact, make_spec
from tests.support.valkey import Valkey

LEASE_MS = 40
REFUSALS = (JobFinished, JobConflict)


class Actors(RuleBasedStateMachine):
    """Gateways, workers of both lanes, users and time, in any order."""

    server: Valkey

    tasks: Bundle[Task] = Bundle("tasks")
    old_tasks: Bundle[Task] = Bundle("old_tasks")

    def __init__(self) -> None:
        super().__init__()
        self.server.empty()
        policy = RecordPolicy(lease_ms=LEASE_MS, max_crashes=2, backoff_ms=(0, 20), render_ahead=2)
        self.record = Record(connect(self.server.url), policy)
        self.jobs: list[str] = []
        self.fences: dict[tuple[str, Lane], int] = {}

    def teardown(self) -> None:
        self.record.redis.close()

    @rule(tenant=st.sampled_from("ab"), sections=st.integers(1, 2), twice=st.booleans())
    def submit(self, tenant: str, sections: int, twice: bool) -> None:
        spec = make_spec(tenant, sections)
        for _ in range(1 + twice):
            self.record.submit(spec)
        self.jobs.append(spec.id)

    @rule(target=tasks, lane=st.sampled_from(Lane), engine=st.sampled_from(["x", "y"]))
    def claim(self, lane: Lane, engine: str) -> Any:
        task = Claimer(self.record, lane, engine).claim()
        if task is None:
            return multiple()
        assert not self.record.get(task.job_id).status.terminal
        assert task.fence > self.fences.get((task.job_id, lane), 0), "a fence was used twice"
        self.fences[task.job_id, lane] = task.fence
        return task

    @rule(target=old_tasks, task=consumes(tasks), twice=st.booleans())
    def commit(self, task: Task, twice: bool) -> Task:
        for _ in range(1 + twice):
            try:
                accepted = self.record.commit(task, make_artifact(task)).accepted
            except LeaseLost:
                return task
            if accepted:
                assert task.fence == self.fences[task.job_id, task.lane], "a zombie got through"
        return task

    @rule(target=old_tasks, task=consumes(tasks), twice=st.booleans())
    def release(self, task: Task, twice: bool) -> Task:
        for _ in range(1 + twice):
            self.record.release(task)
        return task

    @rule(target=old_tasks, task=consumes(tasks), retryable=st.booleans())
    def fail(self, task: Task, retryable: bool) -> Task:
        problem = Problem(code="fault", title="A fault", detail="Here.", retryable=retryable)
        self.record.fail(task, problem)
        return task

    @rule(task=tasks)
    def renew(self, task: Task) -> None:
        try:
            self.record.renew(task)
        except LeaseLost:
            return
        assert task.fence == self.fences[task.job_id, task.lane]

    @rule(task=old_tasks)
    def a_zombie_tries_everything(self, task: Task) -> None:
        before = self.record.get(task.job_id)
        self.record.release(task)
        for call in (self.record.renew, lambda t: self.record.report_step(t, 1, 2)):
            with pytest.raises(LeaseLost):
                call(task)
        assert self.record.get(task.job_id) == before

    @rule(number=st.integers(0, 9), action=st.sampled_from(["cancel", "pause", "resume"]))
    def control(self, number: int, action: str) -> None:
        if self.jobs:
            job_id = self.jobs[number % len(self.jobs)]
            try:
                getattr(self.record, action)(job_id)
            except REFUSALS:
                return

    @rule()
    def time_passes(self) -> None:
        time.sleep(1.2 * LEASE_MS / 1000)

    @rule()
    def sweep(self) -> None:
        self.record.sweep()

    @invariant()
    def every_job_tells_one_story(self) -> None:
        for job_id in self.jobs:
            told = eventlog.read(self.record.redis, job_id)
            job: Job | None = None
            for event in told:
                job = apply(job, event)
            assert job == self.record.get(job_id)
            ends = [event for event in told if event.type in events.TERMINAL]
            assert len(ends) == job.status.terminal
            assert not ends or ends[0] is told[-1]
            assert (job.video is not None) == (job.status.value == "completed")

    @invariant()
    def what_waits_can_be_worked_on(self) -> None:
        for found in self.record.redis.scan_iter("framepack:ready:*"):
            for job_id in self.record.redis.zrange(found, 0, -1):
                assert self.record.get(str(job_id)).status.value in ("queued", "running")


@pytest.mark.slow
def test_any_order_of_transitions_keeps_the_promises() -> None:
    with TemporaryDirectory() as folder, Valkey(Path(folder)) as server:
        Actors.server = server
        run_state_machine_as_test(
            Actors,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
