"""Every way a task can end, with a real record, real models and a real storage."""

from __future__ import annotations

import errno
import resource
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
import torch

from framepack.errors import InvalidRequest
from service.contract import events
from service.contract.connections import connect
from service.contract.errors import StorageError
from service.contract.job import Artifact, JobStatus, Lane
from service.contract.record import Committed, Record, RecordPolicy, Task, WorkerIdentity
from service.contract.spent import Spent
from service.contract.storage.file_scheme import FileStorage
from tests.support.fleet import Fleet
from worker.artifacts import Artifacts
from worker.checkpoints import SectionCheckpoint
from worker.drain import SAME_REQUEST_SECONDS, UNFIT, Drain
from worker.engine import Engine
from worker.faults import CrashPoint
from worker.heartbeat import Heartbeat
from worker.interruptions import TaskOverdue
from worker.metrics import WorkerMetrics
from worker.previews import Previews
from worker.reporter import Reporter
from worker.runner import Guards, Links, Runner
from worker.tasks.attempt import Tools
from worker.watchdog import Watchdog

POLICY = RecordPolicy(backoff_ms=(0,), max_crashes=2)


class Faulty(FileStorage):
    """A storage in which one thing goes wrong, once."""

    error: Exception | None = None
    before_put: Callable[[], object] = staticmethod(lambda: None)

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self.before_put()
        error, self.error = self.error, None
        if error is not None:
            raise error
        super().put(key, body, content_type)


class Forgetful(Record):
    """Its first answer to a commit gets lost on the way."""

    answered = False

    def commit(
        self,
        task: Task,
        artifact: Artifact,
        spent: Spent | None = None,
        then: tuple[WorkerIdentity, str] | None = None,
    ) -> Committed:
        committed = super().commit(task, artifact, spent, then)
        if not self.answered:
            self.answered = True
            raise redis.exceptions.ConnectionError
        return committed


class Draining(Record):
    """Asks the worker to stop right after its first commit, which claimed the next task."""

    drain: Drain | None = None

    def commit(
        self,
        task: Task,
        artifact: Artifact,
        spent: Spent | None = None,
        then: tuple[WorkerIdentity, str] | None = None,
    ) -> Committed:
        committed = super().commit(task, artifact, spent, then)
        assert committed.next is not None
        assert self.drain is not None
        self.drain.request()
        return committed


class Bench:
    """A runner of one lane, and what it is made of."""

    def __init__(self, fleet: Fleet, engine: Engine, record: Record) -> None:
        self.fleet = fleet
        self.drain = Drain()
        self.metrics = WorkerMetrics()
        self.storage = Faulty(Path(fleet.settings.storage_url.removeprefix("file://")), "", b"")
        watchdog = Watchdog(30, hard_maximum_seconds=60, grace_seconds=60)
        renewals = Record(connect(fleet.settings.redis_url), POLICY)
        heartbeat = Heartbeat(renewals, watchdog)
        heartbeat.start()
        reporter = Reporter(record)
        artifacts = Artifacts(self.storage, patience=0.0)
        tools = Tools(artifacts, reporter, Previews(reporter), self.metrics, CrashPoint())
        self.runner = Runner(
            WorkerIdentity("bench", Lane.RENDER, engine.fingerprints()),
            engine,
            Links(record, fleet.bells, self.storage),
            tools,
            Guards(heartbeat, watchdog, self.drain),
        )

    def outcomes(self) -> dict[str, int]:
        """How often tasks ended in which way."""
        counts: Counter[str] = Counter()
        for metric in self.metrics.tasks.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    counts[sample.labels["outcome"]] += int(sample.value)
        return dict(counts)


@pytest.fixture
def engine(nano: Path) -> Engine:
    return Engine(Lane.RENDER, ["tiny"], {"tiny": str(nano)}, torch.device("cpu"))


@pytest.fixture
def bench(fleet: Fleet, engine: Engine) -> Bench:
    fleet.record.policy = POLICY
    return Bench(fleet, engine, fleet.record)


@pytest.fixture
def job_id(fleet: Fleet) -> str:
    return fleet.submit(seconds=1.2, steps=2)


def hush(bench: Bench) -> None:
    """Nobody rings for the lane that samples."""
    bench.fleet.redis.delete(bench.fleet.bells.queue(Lane.RENDER, "tiny").key)


def test_one_task_after_the_other(bench: Bench, job_id: str) -> None:
    bench.runner.answer()
    assert set(bench.fleet.committed(job_id)) == {"render:0"}
    bench.runner.answer()
    assert set(bench.fleet.committed(job_id)) == {"render:0", "render:1"}
    assert bench.fleet.record.get(job_id).sections_sampled == 1
    bench.runner.answer()  # nothing more to do
    assert bench.outcomes() == {"committed": 2}
    # The next lane was told.
    assert bench.fleet.bells.queue(Lane.DELIVER, "tiny").count > 0


def test_a_bell_sets_off_all_there_is(bench: Bench, job_id: str) -> None:
    """Of its own lane nobody need ring, as long as one worker can do all of it in turn."""
    hush(bench)
    bench.runner.serve()
    assert set(bench.fleet.committed(job_id)) == {"render:0", "render:1"}
    assert bench.fleet.bells.queue(Lane.RENDER, "tiny").count == 0
    assert bench.fleet.bells.queue(Lane.DELIVER, "tiny").count == 1


def test_work_for_two_rings_for_another(bench: Bench, job_id: str) -> None:
    other = bench.fleet.submit(seconds=1.2, steps=2)
    hush(bench)
    bench.runner.serve()
    assert set(bench.fleet.committed(other)) == {"render:0", "render:1"}
    assert bench.fleet.bells.queue(Lane.RENDER, "tiny").count > 0


def test_a_bell_that_took_long_and_a_drain_leave_the_rest_to_another(
    bench: Bench, job_id: str
) -> None:
    hush(bench)
    bench.runner.serve(seconds=0)
    assert set(bench.fleet.committed(job_id)) == {"render:0"}
    assert bench.fleet.bells.queue(Lane.RENDER, "tiny").count == 1
    hush(bench)
    bench.storage.before_put = bench.drain.request
    bench.runner.serve()
    assert set(bench.fleet.committed(job_id)) == {"render:0", "render:1"}
    assert bench.fleet.bells.queue(Lane.RENDER, "tiny").count == 1


def test_a_task_that_came_with_a_commit_is_given_back_by_a_worker_that_stops(
    fleet: Fleet, engine: Engine, job_id: str
) -> None:
    record = Draining(fleet.redis, POLICY)
    bench = Bench(fleet, engine, record)
    record.drain = bench.drain
    hush(bench)
    bench.runner.serve()
    assert bench.outcomes() == {"committed": 1}
    assert fleet.bells.queue(Lane.RENDER, "tiny").count == 1
    task = fleet.record.claim(WorkerIdentity("other", Lane.RENDER, engine.fingerprints()), "token")
    assert task is not None
    assert (task.job_id, task.number, task.crashes) == (job_id, 1, 0)


def test_each_task_of_a_bell_has_the_whole_of_its_time(bench: Bench, job_id: str) -> None:
    left: list[int] = []
    bench.storage.before_put = lambda: left.append(signal.alarm(5))
    previous = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.alarm(1000)
        bench.runner.serve()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert len(left) == 2
    assert min(left) > 900


def test_a_worker_that_should_stop_takes_no_task(bench: Bench, job_id: str) -> None:
    bench.drain.request()
    bench.runner.answer()
    assert bench.fleet.record.get(job_id).status is JobStatus.QUEUED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), "out_of_memory"),
        (StorageError("away"), "storage_error"),
        (TaskOverdue(), "task_timeout"),
        (RuntimeError("a red ball"), "worker_error"),
    ],
)
def test_a_failed_attempt_is_reported_and_repeated(
    bench: Bench, engine: Engine, job_id: str, error: Exception, code: str
) -> None:
    bench.storage.error = error
    bench.runner.answer()
    last = bench.fleet.events(job_id)[-1]
    assert (last.type, last.data["reason"], last.data["task"]) == (events.RETRYING, code, 0)
    again = Bench(bench.fleet, engine, bench.fleet.record) if bench.drain.requested else bench
    again.runner.answer()
    assert set(bench.fleet.committed(job_id)) == {"render:0"}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"),
        RuntimeError("can't start new thread"),
        torch.AcceleratorError("device-side assert triggered"),
    ],
)
def test_a_process_that_nobody_can_trust_any_more_is_replaced(
    bench: Bench, job_id: str, error: Exception
) -> None:
    """A broken CUDA context, a host without memory: the job goes on, the process does not."""
    bench.storage.error = error
    bench.runner.answer()
    assert bench.drain.exit_code == UNFIT
    assert bench.fleet.names(job_id)[-1] == events.RETRYING
    bench.runner.answer()
    assert bench.outcomes().get("committed") is None


def test_failures_in_a_row_that_nobody_can_explain_end_the_process(
    bench: Bench, job_id: str
) -> None:
    """It may be the process: oneDNN stays broken where memory was short for a moment."""
    bench.fleet.record.policy = replace(POLICY, max_crashes=10)
    broken = RuntimeError("could not create a primitive")
    for error in (broken, StorageError("away"), broken, None, broken):
        bench.storage.error = error
        bench.runner.answer()
        assert not bench.drain.requested
    bench.storage.error = broken
    bench.runner.answer()
    assert bench.drain.exit_code == UNFIT
    assert not bench.fleet.record.get(job_id).status.terminal


def test_a_task_starts_no_thread(bench: Bench, engine: Engine, job_id: str) -> None:
    """Where memory is short a thread dies while it starts, and its starter waits for ever."""
    engine.load()
    started: set[str] = set()
    threading.setprofile(lambda *_: started.add(threading.current_thread().name))
    try:
        for _ in range(2):
            bench.runner.answer()
    finally:
        threading.setprofile(None)
    assert bench.outcomes() == {"committed": 2}
    assert started == set()


def test_failing_again_and_again_ends_the_job_with_the_reason(bench: Bench, job_id: str) -> None:
    for _ in range(2):
        bench.storage.error = RuntimeError("a red ball in /secret/place")
        bench.runner.answer()
    job = bench.fleet.record.get(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("worker_error", True)
    assert "ball" not in job.error.detail
    assert "secret" not in job.error.detail


def test_what_cannot_be_served_is_not_tried_again(bench: Bench, job_id: str) -> None:
    bench.storage.error = InvalidRequest("schedule", "'td_secret' cannot be")
    bench.runner.answer()
    job = bench.fleet.record.get(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("invalid_request", False)
    assert "schedule" in job.error.detail
    assert "secret" not in job.error.detail


def test_a_job_this_version_would_make_differently_is_not_made(bench: Bench) -> None:
    spec = bench.fleet.spec(seconds=1.2)
    bench.fleet.accept(spec.model_copy(update={"num_frames": spec.num_frames + 1}))
    bench.runner.answer()
    assert bench.outcomes() == {"worker_error": 1}
    assert bench.fleet.committed(spec.id) == {}


def test_a_job_cancelled_while_it_is_stored_is_cancelled(bench: Bench, job_id: str) -> None:
    bench.storage.before_put = lambda: bench.fleet.record.cancel(job_id)
    bench.runner.answer()
    assert bench.fleet.record.get(job_id).status is JobStatus.CANCELLED
    assert bench.outcomes() == {"cancelled": 1}


def test_a_worker_that_must_stop_at_once_gives_the_task_back(bench: Bench, job_id: str) -> None:
    def stop() -> None:
        bench.drain.request()
        time.sleep(SAME_REQUEST_SECONDS)
        bench.drain.request()

    bench.storage.before_put = stop
    bench.runner.answer()
    assert bench.outcomes() == {"drained": 1}
    assert bench.fleet.committed(job_id) == {}
    other = WorkerIdentity("other", Lane.RENDER, {"tiny": "another engine"})
    task = bench.fleet.record.claim(other, "token")
    assert task is not None
    assert (task.number, task.crashes) == (0, 0)


def test_a_commit_whose_answer_got_lost_is_asked_for_again(
    fleet: Fleet, engine: Engine, job_id: str
) -> None:
    bench = Bench(fleet, engine, Forgetful(fleet.redis, POLICY))
    bench.runner.serve()
    assert set(fleet.committed(job_id)) == {"render:0", "render:1"}
    assert bench.outcomes() == {"committed": 2}
    assert fleet.names(job_id).count(events.SECTION_STARTED) == 1


def test_a_device_that_is_too_small_gets_a_smaller_placement_and_the_same_bytes(
    bench: Bench, engine: Engine, job_id: str
) -> None:
    """The error is raised where torch raises it: in the transformer, in the midst of a section."""
    bench.runner.answer()
    undisturbed, second = bench.fleet.submit(seconds=1.2, steps=2), iter([False, True])

    def runs_out(*_: object) -> None:
        if next(second):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    fingerprint = engine.fingerprints()
    transformer = engine["tiny"].transformer
    assert isinstance(transformer, torch.nn.Module)
    transformer.get_submodule("norm_out").register_forward_pre_hook(runs_out)
    del transformer
    bench.runner.answer()
    last = bench.fleet.events(job_id)[-1]
    assert (last.type, last.data["reason"]) == (events.RETRYING, "out_of_memory")
    assert str(engine["tiny"].placement) == "staged"
    assert engine.fingerprints() == fingerprint
    for _ in range(3):
        bench.runner.answer()
    assert bench.outcomes() == {"out_of_memory": 1, "committed": 4}
    assert not bench.drain.requested
    made = [bench.fleet.committed(job)["render:1"] for job in (job_id, undisturbed)]
    assert bench.storage.get(made[0]) == bench.storage.get(made[1])


def test_what_no_placement_can_hold_fails_with_the_reason(
    bench: Bench, engine: Engine, job_id: str
) -> None:
    for placement in ("staged", "streamed"):
        bench.storage.error = torch.OutOfMemoryError("CUDA out of memory")
        bench.runner.answer()
        assert str(engine["tiny"].placement) == placement
    job = bench.fleet.record.get(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("out_of_memory", True)
    assert not engine.shrink("tiny")


def test_a_full_disk_is_told_as_one_and_passes(bench: Bench, job_id: str) -> None:
    """No file of this process may grow: the kernel refuses the storage's write itself."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, most))
    try:
        bench.runner.answer()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    last = bench.fleet.events(job_id)[-1]
    assert (last.type, last.data["reason"]) == (events.RETRYING, "no_space")
    bench.runner.answer()
    assert bench.outcomes() == {"no_space": 1, "committed": 1}


def test_a_quality_is_its_jobs_through_a_change_of_worker(
    bench: Bench, engine: Engine, fleet: Fleet
) -> None:
    """Of two drafts one is made by two workers; an exact job with their seed comes in between."""
    request: dict[str, Any] = {"seconds": 2.4, "steps": 5, "seed": 3}
    draft, exact, again = (fleet.submit(**request, quality=q) for q in ("draft", "exact", "draft"))
    other = Bench(fleet, engine, fleet.record)
    for runner in (bench, other, bench, other, other, bench, other, bench, bench):
        runner.runner.answer()

    def latents(job_id: str) -> list[torch.Tensor]:
        keys = fleet.committed(job_id)
        found = [bench.storage.get(keys[f"render:{number}"]) for number in (1, 2)]
        return [SectionCheckpoint.from_bytes(data).latents for data in found]

    first, second = latents(draft), latents(again)
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, latents(exact)))


def test_a_section_is_not_continued_with_other_calibration(
    bench: Bench, fleet: Fleet, nano: Path, tmp_path: Path
) -> None:
    """What a quality skips by lies beside the weights and is part of the engine's fingerprint."""
    job_id = fleet.submit(seconds=2.4, steps=2, quality="draft")
    bench.runner.answer()
    bench.runner.answer()
    weights = tmp_path / "calibrated"
    shutil.copytree(nano, weights)
    (weights / "magcache.json").write_text('{"ratios": [1.0, 0.9]}')
    calibrated = Engine(Lane.RENDER, ["tiny"], {"tiny": str(weights)}, torch.device("cpu"))
    other = Bench(fleet, calibrated, fleet.record)
    other.runner.answer()
    assert "render:2" not in fleet.committed(job_id)
    bench.runner.answer()
    assert "render:2" in fleet.committed(job_id)
