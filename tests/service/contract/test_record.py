"""The record's transitions, against a real server."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from service.contract import eventlog, events
from service.contract.errors import JobConflict, JobFinished, JobNotFound, LeaseLost, Problem
from service.contract.job import Job, JobStatus, Lane, apply
from service.contract.record import Record, RecordPolicy, Signal
from tests.support.jobs import PRESET, Claimer, do_all, make_artifact, make_spec

LEASE_MS = 200
FAULT = Problem(code="fault", title="A fault", detail="For a test.", retryable=True)


@pytest.fixture
def record(redis: Redis) -> Record:
    return Record(redis, RecordPolicy(lease_ms=60_000, backoff_ms=(0,)))


@pytest.fixture
def impatient(redis: Redis) -> Record:
    """Leases end soon."""
    return Record(redis, RecordPolicy(lease_ms=LEASE_MS, backoff_ms=(0,)))


def wait_for_lapse() -> None:
    time.sleep(LEASE_MS / 1000 + 0.05)


def folded(record: Record, job_id: str) -> Job:
    """The job's state from its events alone."""
    job: Job | None = None
    for event in eventlog.read(record.redis, job_id):
        job = apply(job, event)
    assert job is not None
    return job


def event_types(record: Record, job_id: str) -> list[str]:
    return [event.type for event in eventlog.read(record.redis, job_id)]


class TestWayOfAJob:
    def test_tasks_come_in_order_and_end_in_a_video(self, record: Record) -> None:
        spec = make_spec(sections=2)
        assert record.submit(spec).ring == [(Lane.RENDER, PRESET)]
        kinds = [(task.kind, task.section) for task in do_all(record)]
        assert kinds == [
            ("encode", None),
            ("sample", 0),
            ("decode", 0),
            ("sample", 1),
            ("decode", 1),
            ("finish", None),
        ]
        job = record.get(spec.id)
        assert job.status is JobStatus.COMPLETED
        assert job.video is not None
        assert [clip.section for clip in job.clips] == [0, 1]

    def test_the_fold_of_the_events_is_the_record_after_every_step(self, record: Record) -> None:
        spec = make_spec(sections=3)
        record.submit(spec)
        lanes = [Claimer(record, lane) for lane in Lane]
        while not record.get(spec.id).status.terminal:
            for worker in lanes:
                worker.do_one()
                assert folded(record, spec.id) == record.get(spec.id)

    def test_events_are_numbered_without_gaps_and_end_once(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        do_all(record)
        found = eventlog.read(record.redis, spec.id)
        assert [event.sequence for event in found] == list(range(1, len(found) + 1))
        ends = [event.type for event in found if event.type in events.TERMINAL]
        assert ends == [events.COMPLETED]
        assert found[-1].type == events.COMPLETED

    def test_artifacts_of_earlier_tasks_come_with_a_claim(self, record: Record) -> None:
        record.submit(make_spec())
        render = Claimer(record)
        first, second = render.do_one(), render.claim()
        assert first is not None
        assert second is not None
        assert second.artifacts == {"render:0": make_artifact(first)}

    def test_render_waits_for_deliver_when_it_is_too_far_ahead(self, redis: Redis) -> None:
        record = Record(redis, RecordPolicy(render_ahead=2))
        record.submit(make_spec(sections=9))
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        done = [task.kind for task in iter(render.do_one, None)]
        assert done == ["encode", "sample", "sample"]
        assert deliver.do_one() is not None
        assert render.do_one() is not None
        assert render.do_one() is None

    def test_nothing_is_claimed_twice(self, record: Record) -> None:
        record.submit(make_spec())
        assert Claimer(record).claim() is not None
        assert Claimer(record).claim() is None

    def test_whoever_claims_hears_whether_there_is_work_for_another(self, record: Record) -> None:
        """Of its own kind: neither another engine's nor another preset's."""
        record.submit(make_spec())
        assert not Claimer(record).must_claim().leaves_more
        for _ in range(2):
            record.submit(make_spec())
        worker = Claimer(record)
        assert worker.must_claim().leaves_more
        assert not worker.must_claim().leaves_more
        mine, pinned = make_spec(), make_spec()
        record.submit(pinned)
        Claimer(record, fingerprint="engine-b").do_one()
        record.submit(mine)
        task = worker.must_claim()
        assert (task.job_id, task.leaves_more) == (mine.id, False)


class TestClaimingWithACommit:
    """One step for both; the claim is as any other."""

    def test_the_next_task_comes_with_the_answer(self, record: Record) -> None:
        record.submit(make_spec())
        worker = Claimer(record)
        task = worker.must_claim()
        artifact, then = make_artifact(task), (worker.identity, uuid.uuid4().hex)
        committed = record.commit(task, artifact, then=then)
        assert committed.accepted
        assert committed.next is not None
        assert (committed.next.number, committed.next.fence) == (1, task.fence + 1)
        assert committed.next.artifacts == {"render:0": artifact}
        assert record.commit(task, artifact, then=then).next == committed.next
        assert worker.claim() is None

    def test_it_is_whose_turn_it_is(self, record: Record) -> None:
        mine, other = make_spec("mine"), make_spec("another", priority="high")
        record.submit(mine)
        worker = Claimer(record)
        task = worker.must_claim()
        record.submit(other)
        then = (worker.identity, uuid.uuid4().hex)
        claimed = record.commit(task, make_artifact(task), then=then).next
        assert claimed is not None
        assert claimed.job_id == other.id
        assert claimed.leaves_more

    def test_a_cancelled_job_hands_out_nothing_more(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        worker = Claimer(record)
        task = worker.must_claim()
        record.cancel(spec.id)
        then = (worker.identity, uuid.uuid4().hex)
        committed = record.commit(task, make_artifact(task), then=then)
        assert (committed.accepted, committed.next) == (False, None)
        assert record.get(spec.id).status is JobStatus.CANCELLED

    def test_who_lost_the_task_claims_nothing(self, record: Record) -> None:
        record.submit(make_spec())
        worker = Claimer(record)
        task = worker.must_claim()
        record.release(task)
        with pytest.raises(LeaseLost):
            record.commit(task, make_artifact(task), then=(worker.identity, uuid.uuid4().hex))
        assert worker.must_claim().number == task.number


class TestRepeatedCalls:
    """A client whose answer got lost asks again."""

    def test_submit(self, record: Record) -> None:
        spec = make_spec()
        assert record.submit(spec).created
        again = record.submit(spec)
        assert not again.created
        assert again.ring == [(Lane.RENDER, PRESET)]
        assert event_types(record, spec.id) == [events.QUEUED]

    def test_claim_with_the_same_token(self, record: Record) -> None:
        record.submit(make_spec())
        record.submit(make_spec())
        worker, token = Claimer(record).identity, uuid.uuid4().hex
        first, second = record.claim(worker, token), record.claim(worker, token)
        assert first is not None
        assert first == second

    def test_commit(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        task = Claimer(record).must_claim()
        first = record.commit(task, make_artifact(task))
        assert record.commit(task, make_artifact(task)) == first
        sample = Claimer(record).must_claim()
        record.commit(sample, make_artifact(sample))
        record.commit(sample, make_artifact(sample))
        assert event_types(record, spec.id).count(events.SECTION_SAMPLED) == 1

    def test_release_and_fail(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        task = Claimer(record).must_claim()
        record.fail(task, FAULT)
        record.fail(task, FAULT)
        record.release(task)
        assert event_types(record, spec.id).count(events.RETRYING) == 1
        assert Claimer(record).must_claim().crashes == 1

    def test_commit_of_a_cancelled_job(self, record: Record) -> None:
        record.submit(make_spec())
        task = Claimer(record).must_claim()
        record.cancel(task.job_id)
        first = record.commit(task, make_artifact(task))
        assert not first.accepted
        assert not record.commit(task, make_artifact(task)).accepted
        assert event_types(record, task.job_id).count(events.CANCELLED) == 1

    def test_the_end_of_a_job(self, record: Record) -> None:
        spec = make_spec(sections=1)
        record.submit(spec)
        last = do_all(record)[-1]
        assert last.kind == "finish"
        assert record.commit(last, make_artifact(last)).accepted
        assert event_types(record, spec.id).count(events.COMPLETED) == 1


class TestFencing:
    def test_an_old_holder_is_refused_everything(self, impatient: Record) -> None:
        spec = make_spec()
        impatient.submit(spec)
        old = Claimer(impatient).must_claim()
        wait_for_lapse()
        new = Claimer(impatient).must_claim()
        assert new.fence == old.fence + 1
        for refused in (
            lambda: impatient.renew(old),
            lambda: impatient.report_step(old, 1, 2),
            lambda: impatient.commit(old, make_artifact(old)),
        ):
            with pytest.raises(LeaseLost):
                refused()
        impatient.release(old)
        impatient.fail(old, FAULT)
        assert impatient.renew(new) is Signal.CONTINUE
        assert impatient.commit(new, make_artifact(new)).accepted

    def test_a_renewed_lease_does_not_lapse(self, impatient: Record) -> None:
        impatient.submit(make_spec())
        task = Claimer(impatient).must_claim()
        for _ in range(8):
            time.sleep(LEASE_MS / 4000)
            assert impatient.renew(task) is Signal.CONTINUE
            assert Claimer(impatient).claim() is None

    def test_a_result_of_an_expired_but_unclaimed_lease_counts(self, impatient: Record) -> None:
        impatient.submit(make_spec())
        task = Claimer(impatient).must_claim()
        wait_for_lapse()
        assert impatient.commit(task, make_artifact(task)).accepted

    def test_the_two_lanes_of_a_job_do_not_disturb_each_other(self, record: Record) -> None:
        record.submit(make_spec())
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        render.do_one()
        render.do_one()
        decoding, sampling = deliver.must_claim(), render.must_claim()
        assert record.commit(sampling, make_artifact(sampling)).accepted
        assert record.renew(decoding) is Signal.CONTINUE
        assert record.commit(decoding, make_artifact(decoding)).accepted


class TestCrashes:
    def test_the_cap_ends_the_job_with_a_problem(self, impatient: Record) -> None:
        spec = make_spec()
        impatient.submit(spec)
        for crashes in range(3):
            assert Claimer(impatient).must_claim().crashes == crashes
            wait_for_lapse()
        assert Claimer(impatient).claim() is None
        job = impatient.get(spec.id)
        assert job.status is JobStatus.FAILED
        assert job.error is not None
        assert job.error.code == "worker_crashed"
        assert folded(impatient, spec.id) == job

    def test_a_commit_forgives_earlier_crashes(self, impatient: Record) -> None:
        spec = make_spec(sections=4)
        impatient.submit(spec)
        for _ in range(4):
            Claimer(impatient).must_claim()
            wait_for_lapse()
            assert Claimer(impatient).do_one() is not None
        assert impatient.get(spec.id).status is JobStatus.RUNNING

    def test_a_pause_follows_a_crash(self, redis: Redis) -> None:
        record = Record(redis, RecordPolicy(lease_ms=50, backoff_ms=(0, 300), max_crashes=9))
        record.submit(make_spec())
        for _ in range(2):
            Claimer(record).must_claim()
            time.sleep(0.08)
        assert Claimer(record).claim() is None
        time.sleep(0.35)
        assert Claimer(record).claim() is not None

    def test_a_drain_counts_nothing(self, record: Record) -> None:
        record.submit(make_spec())
        for _ in range(5):
            task = Claimer(record).must_claim()
            assert task.crashes == 0
            assert record.release(task) == [(Lane.RENDER, PRESET)]

    def test_a_fault_that_cannot_heal_ends_the_job(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        fatal = FAULT.model_copy(update={"retryable": False})
        record.fail(Claimer(record).must_claim(), fatal)
        assert record.get(spec.id).error == fatal

    def test_the_other_lane_hears_that_the_job_ended(self, record: Record) -> None:
        record.submit(make_spec())
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        render.do_one()
        render.do_one()
        decoding, sampling = deliver.must_claim(), render.must_claim()
        record.fail(sampling, FAULT.model_copy(update={"retryable": False}))
        with pytest.raises(LeaseLost):
            record.renew(decoding)


class TestControl:
    def test_cancelling_a_waiting_job_ends_it(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        assert record.cancel(spec.id) is JobStatus.CANCELLED
        assert Claimer(record).claim() is None
        assert event_types(record, spec.id)[-2:] == [events.CANCELLING, events.CANCELLED]

    def test_cancelling_a_running_job_waits_for_its_workers(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        task = Claimer(record).must_claim()
        assert record.cancel(spec.id) is JobStatus.CANCELLING
        assert record.cancel(spec.id) is JobStatus.CANCELLING
        assert record.report_step(task, 1, 4) is Signal.CANCEL
        assert record.renew(task) is Signal.CANCEL
        record.release(task)
        assert record.get(spec.id).status is JobStatus.CANCELLED

    @pytest.mark.parametrize("ending", ["commit", "lapse", "fail"])
    def test_a_cancelled_job_ends_however_its_worker_does(
        self, impatient: Record, ending: str
    ) -> None:
        spec = make_spec(sections=1)
        impatient.submit(spec)
        task = Claimer(impatient).must_claim()
        impatient.cancel(spec.id)
        if ending == "commit":
            assert not impatient.commit(task, make_artifact(task)).accepted
        elif ending == "fail":
            impatient.fail(task, FAULT)
        else:
            wait_for_lapse()
            impatient.sweep()
        job = impatient.get(spec.id)
        assert job.status is JobStatus.CANCELLED
        assert folded(impatient, spec.id) == job

    def test_both_lanes_must_let_go(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        render.do_one()
        render.do_one()
        decoding, sampling = deliver.must_claim(), render.must_claim()
        record.cancel(spec.id)
        record.release(decoding)
        assert record.get(spec.id).status is JobStatus.CANCELLING
        record.release(sampling)
        assert record.get(spec.id).status is JobStatus.CANCELLED

    def test_a_pause_hands_out_nothing_and_loses_nothing(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        task = Claimer(record).must_claim()
        assert record.pause(spec.id) is JobStatus.PAUSED
        assert record.renew(task) is Signal.PAUSE
        assert record.commit(task, make_artifact(task)).accepted
        assert Claimer(record).claim() is None
        assert record.resume(spec.id) == (JobStatus.RUNNING, [(Lane.RENDER, PRESET)])
        do_all(record)
        assert record.get(spec.id).status is JobStatus.COMPLETED
        assert folded(record, spec.id) == record.get(spec.id)

    def test_a_job_paused_before_its_start_is_queued_again(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        record.pause(spec.id)
        assert record.resume(spec.id)[0] is JobStatus.QUEUED

    def test_what_has_ended_cannot_be_changed(self, record: Record) -> None:
        spec = make_spec(sections=1)
        record.submit(spec)
        do_all(record)
        calls: tuple[Callable[[str], object], ...] = (record.cancel, record.pause, record.resume)
        for call in calls:
            with pytest.raises(JobFinished, match="completed"):
                call(spec.id)

    def test_what_is_being_cancelled_cannot_be_paused(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        Claimer(record).must_claim()
        record.cancel(spec.id)
        with pytest.raises(JobConflict):
            record.pause(spec.id)

    def test_what_is_not_there_is_not_found(self, record: Record) -> None:
        calls: tuple[Callable[[str], object], ...] = (
            record.get,
            record.spec,
            record.progress,
            record.cancel,
            record.pause,
            record.resume,
        )
        for call in calls:
            with pytest.raises(JobNotFound):
                call("0" * 32)


class TestSteps:
    def test_the_latest_step_is_part_of_the_progress(self, record: Record) -> None:
        spec = make_spec()
        record.submit(spec)
        render = Claimer(record)
        render.do_one()
        task = render.must_claim()
        record.report_step(task, 3, 16)
        progress = record.progress(spec.id)
        assert (progress.section, progress.step, progress.total_steps) == (0, 3, 16)
        record.commit(task, make_artifact(task))
        assert record.progress(spec.id).step is None

    def test_steps_are_published_at_most_twice_a_second(self, record: Record) -> None:
        record.submit(make_spec())
        render = Claimer(record)
        render.do_one()
        task = render.must_claim()
        channel: Any = record.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        with channel:
            channel.subscribe(eventlog.STEPS)
            channel.get_message(timeout=1)
            for step in range(1, 17):
                record.report_step(task, step, 16)
            seen = []
            while (message := channel.get_message(timeout=0.2)) is not None:
                seen.append(json.loads(message["data"])["step"])
        assert seen[0] == 1
        assert seen[-1] == 16
        assert len(seen) <= 3
