"""Any order of transitions by several actors keeps the record's promises (hypothesis).

Safety after every step: one story per job, one holder per lane, every waiting task where a claim
finds it. Liveness at the end: when the actors stop quarrelling, every accepted job ends.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

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
from service.contract.job import Job, JobStatus, Lane, apply
from service.contract.record import Record, RecordPolicy, Task
from tests.support.jobs import Claimer, make_artifact, make_spec
from tests.support.valkey import Valkey

LEASE_MS = 40
RENDER_AHEAD = 2
ENGINES = ("x", "y")
REFUSALS = (JobFinished, JobConflict)


class Actors(RuleBasedStateMachine):
    """Gateways, workers of both lanes, users and time, in any order."""

    server: Valkey

    tasks: Bundle[Task] = Bundle("tasks")
    old_tasks: Bundle[Task] = Bundle("old_tasks")

    def __init__(self) -> None:
        super().__init__()
        self.server.empty()
        policy = RecordPolicy(
            lease_ms=LEASE_MS, max_crashes=2, backoff_ms=(0, 20), render_ahead=RENDER_AHEAD
        )
        self.record = Record(connect(self.server.url), policy)
        self.jobs: list[str] = []
        self.fences: dict[tuple[str, Lane], int] = {}

    def teardown(self) -> None:
        try:
            self.every_accepted_job_ends()
        finally:
            self.record.redis.close()

    def every_accepted_job_ends(self) -> None:
        workers = [Claimer(self.record, lane, engine) for lane in Lane for engine in ENGINES]
        deadline = time.monotonic() + 60  # only a defect takes so long
        while open_jobs := self.open_jobs():
            assert time.monotonic() < deadline, "a job never ends"
            for job_id in open_jobs:
                if self.record.get(job_id).status is JobStatus.PAUSED:
                    self.record.resume(job_id)
            done = [worker.do_one() for worker in workers]
            if not any(done):
                time.sleep(LEASE_MS / 4000)
                self.record.sweep()
        self.every_job_tells_one_story()
        one_a_job = ("job:", "claim:", "gone:", "expiring")
        one_a_service = ("served:", "clock:", "events", "submitted", "healed", "counts", "pace")
        one_a_tenant = ("listed:", "usage:")
        kept = (*one_a_job, *one_a_service, *one_a_tenant)
        left = [str(key).removeprefix("framepack:") for key in self.record.redis.scan_iter()]
        assert not [key for key in left if not key.startswith(kept)]

    def open_jobs(self) -> list[str]:
        return [each for each in self.jobs if not self.record.get(each).status.terminal]

    @rule(tenant=st.sampled_from("ab"), sections=st.integers(1, 2), twice=st.booleans())
    def submit(self, tenant: str, sections: int, twice: bool) -> None:
        spec = make_spec(tenant, sections)
        for _ in range(1 + twice):
            self.record.submit(spec)
        self.jobs.append(spec.id)

    @rule(target=tasks, lane=st.sampled_from(Lane), engine=st.sampled_from(ENGINES))
    def claim(self, lane: Lane, engine: str) -> Any:
        task = Claimer(self.record, lane, engine).claim()
        if task is None:
            return multiple()
        assert self.record.get(task.job_id).status is JobStatus.RUNNING
        assert task.number in self.claimable(task.job_id, lane)
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
    def every_lane_is_where_it_can_be_found(self) -> None:
        now = self.record.now()
        places = self.places()
        for job_id in self.jobs:
            fields = self.fields(job_id)
            for lane in Lane:
                held = int(fields[f"{lane}.lease"]) > 0
                wanted = not held and bool(self.claimable(job_id, lane))
                later = wanted and int(fields.get(f"{lane}.after", 0)) > now
                found = places.pop((job_id, lane), [])
                if held:
                    assert found == ["leased"]
                elif later:
                    assert found == ["delayed"]
                elif wanted:
                    # A pause may have ended since; the next claim or sweep notices.
                    assert found in (["ready"], ["delayed"])
                else:
                    assert found == []
        assert not places, "something waits that is no job"

    @invariant()
    def indexes_agree(self) -> None:
        client = self.record.redis
        tenants = set()
        for found in client.scan_iter("framepack:ready:*"):
            _, _, lane, kind, tenant, pool = str(found).split(":", 5)
            assert client.sismember(f"framepack:pools:{lane}:{kind}", pool)
            active = f"framepack:active:{lane}:{kind}:{pool}"
            served = client.hget(f"framepack:served:{lane}:{kind}", tenant)
            assert client.zscore(active, tenant) == float(served or 0)
            tenants.add((active, tenant))
        for found in client.scan_iter("framepack:active:*"):
            for waiting in client.zrange(found, 0, -1):
                assert (str(found), str(waiting)) in tenants, "a tenant waits with nothing"

    def places(self) -> dict[tuple[str, Lane], list[str]]:
        """Where each lane of each job waits, as the indexes have it."""
        client, found = self.record.redis, defaultdict[tuple[str, Lane], list[str]](list)
        for name, place in (("leases", "leased"), ("delayed", "delayed")):
            for member in client.zrange(f"framepack:{name}", 0, -1):
                job_id, _, lane = str(member).partition(" ")
                found[job_id, Lane(lane)].append(place)
        for key in client.scan_iter("framepack:ready:*"):
            for member in client.zrange(key, 0, -1):
                found[str(member), Lane(str(key).split(":")[2])].append("ready")
        return found

    def claimable(self, job_id: str, lane: Lane) -> list[int]:
        """The task of a lane that may be handed out, by the rules in words, not the script's."""
        job, fields = self.record.get(job_id), self.fields(job_id)
        if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
            return []
        sections = int(fields["sections"])
        encoded = "artifact:render:0" in fields
        sampled, decoded = job.sections_sampled, len(job.clips)
        if lane is Lane.RENDER:
            if not encoded:
                return [0]
            too_far = sampled - decoded >= RENDER_AHEAD
            return [] if sampled == sections or too_far else [sampled + 1]
        if decoded < sections:
            return [decoded] if sampled > decoded else []
        return [sections]

    def fields(self, job_id: str) -> dict[str, str]:
        return cast(dict[str, str], self.record.redis.hgetall(f"framepack:job:{job_id}"))


@pytest.mark.slow
def test_any_order_of_transitions_keeps_the_promises() -> None:
    with TemporaryDirectory() as folder, Valkey(Path(folder), keeps=False) as server:
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
