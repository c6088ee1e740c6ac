"""What is counted about all jobs: exact, and the same however often a call is repeated."""

import errno
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from service.api.record_metrics import RecordCollector
from service.contract.census import BOUNDS, SECONDS_PER_COST, take_census
from service.contract.connections import KEY_PREFIX, connect
from service.contract.job import Artifact, JobSpec, Lane
from service.contract.record import Record, RecordPolicy, Task, WorkerIdentity
from tests.support.jobs import make_spec
from tests.support.valkey import free_port
from worker.failures import problem_of

COST = 100.0
ARTIFACT = Artifact(key="k", sha256="0" * 64, size_bytes=1, content_type="video/mp4")


@pytest.fixture
def record(redis: Redis) -> Record:
    return Record(redis, RecordPolicy(max_crashes=2, backoff_ms=(0,)))


def spec(num_sections: int) -> JobSpec:
    return make_spec(sections=num_sections, section_cost=COST)


def claim(record: Record, lane: Lane, token: str) -> Task:
    task = record.claim(WorkerIdentity("w", lane, {"tiny": "engine"}), token)
    assert task is not None
    return task


def test_work_left_falls_with_each_sampled_section(record: Record) -> None:
    job = spec(num_sections=3)
    record.submit(job)
    census = take_census(record.redis)
    assert census.open_jobs == {("tiny", "queued"): 1}
    assert census.waiting[("tiny", "render")] == 1
    assert census.waiting[("tiny", "deliver")] == 0
    assert census.backlog_seconds["tiny"] == pytest.approx(3 * COST * SECONDS_PER_COST)
    record.commit(claim(record, Lane.RENDER, "encode"), ARTIFACT)
    sample = claim(record, Lane.RENDER, "sample")
    # As if the section had taken twenty seconds.
    began = f"{KEY_PREFIX}job:{job.id}"
    record.redis.hincrby(began, "render.began", -20_000)
    record.commit(sample, ARTIFACT)
    census = take_census(record.redis)
    assert census.open_jobs == {("tiny", "running"): 1}
    assert census.waiting[("tiny", "deliver")] == 1
    assert census.backlog_seconds["tiny"] == pytest.approx(2 * 20.0, rel=0.05)


def test_repeated_calls_count_once(record: Record) -> None:
    job = spec(num_sections=1)
    record.submit(job)
    record.submit(job)
    for lane, token in ((Lane.RENDER, "a"), (Lane.RENDER, "b"), (Lane.DELIVER, "c"),
                        (Lane.DELIVER, "d")):  # fmt: skip
        task = claim(record, lane, token)
        assert claim(record, lane, token) == replace(task, artifacts=task.artifacts)
        record.commit(task, ARTIFACT)
        record.commit(task, ARTIFACT)
    census = take_census(record.redis)
    assert census.counts == {
        ("accepted", "tiny"): 1,
        ("section", "tiny"): 1,
        ("ended", "completed", "tiny"): 1,
    }
    assert sum(census.durations["queue_wait", "tiny"].at_most.values()) == 1
    assert sum(census.durations["job", "tiny"].at_most.values()) == 1
    assert not census.open_jobs


def test_retries_and_cancels_are_counted(record: Record, redis: Redis) -> None:
    job = spec(num_sections=1)
    record.submit(job)
    claim(record, Lane.RENDER, "a")
    redis.zadd(f"{KEY_PREFIX}leases", {f"{job.id} render": 1})
    record.sweep()
    record.cancel(job.id)
    census = take_census(redis)
    assert census.counts["retry", "worker_lost", "tiny"] == 1
    assert census.counts["ended", "cancelled", "tiny"] == 1
    assert sum(census.durations["cancel", "tiny"].at_most.values()) == 1


def test_shown_with_zeros_before_there_are_jobs(record: Record) -> None:
    registry = CollectorRegistry()
    registry.register(RecordCollector(record.redis, ("tiny",)))
    shown = registry.get_sample_value
    assert shown("framepack_record_up") == 1
    assert shown("framepack_backlog_gpu_seconds", {"preset": "tiny"}) == 0
    assert shown("framepack_queue_depth", {"preset": "tiny", "lane": "render"}) == 0
    assert shown("framepack_jobs_total", {"preset": "tiny", "outcome": "failed"}) == 0
    record.submit(spec(num_sections=1))
    claim(record, Lane.RENDER, "a")
    assert shown("framepack_cancel_latency_seconds_count", {"preset": "tiny"}) == 0
    assert shown("framepack_queue_wait_seconds_bucket", {"preset": "tiny", "le": "7200"}) == 1
    assert shown("framepack_queue_wait_seconds_count", {"preset": "tiny"}) == 1


def test_all_that_can_be_counted_of_a_preset_is_there_before_its_first_job(record: Record) -> None:
    registry = CollectorRegistry()
    registry.register(RecordCollector(record.redis, ("tiny",)))

    def names() -> set[tuple[object, ...]]:
        return {
            (sample.name, *sorted(sample.labels.items()))
            for metric in registry.collect()
            for sample in metric.samples
        }

    before = names()
    shown = registry.get_sample_value
    for reason in ("worker_lost", "storage_error", "out_of_memory"):
        assert shown("framepack_retries_total", {"preset": "tiny", "reason": reason}) == 0
    assert shown("framepack_job_seconds_bucket", {"preset": "tiny", "le": "60"}) == 0
    record.submit(spec(num_sections=1))
    record.commit(claim(record, Lane.RENDER, "a"), ARTIFACT)
    record.fail(claim(record, Lane.RENDER, "b"), problem_of(OSError(errno.ENOSPC, "full")))
    record.commit(claim(record, Lane.RENDER, "c"), ARTIFACT)
    record.commit(claim(record, Lane.DELIVER, "d"), ARTIFACT)
    record.commit(claim(record, Lane.DELIVER, "e"), ARTIFACT)
    assert take_census(record.redis).counts["ended", "completed", "tiny"] == 1
    assert names() == before


def test_the_bounds_of_durations_are_those_that_the_script_counts(record: Record) -> None:
    record.submit(spec(num_sections=1))
    durations = take_census(record.redis).durations
    counted = {name: set(found.at_most) for (name, _), found in durations.items()}
    assert counted == {name: set(bounds.split()) for name, bounds in BOUNDS.items()}


def test_an_absent_server_is_told_and_nothing_else() -> None:
    registry = CollectorRegistry()
    with connect(f"redis://127.0.0.1:{free_port()}/0", retries=0) as away:
        registry.register(RecordCollector(away, ("tiny",)))
        assert [metric.name for metric in registry.collect()] == ["framepack_record_up"]
        assert registry.get_sample_value("framepack_record_up") == 0


def test_a_damaged_record_is_left_out(record: Record, redis: Redis) -> None:
    redis.sadd(f"{KEY_PREFIX}open", "nothing", "string")
    redis.set(f"{KEY_PREFIX}job:string", "x")
    record.submit(spec(num_sections=1))
    assert take_census(redis).open_jobs == {("tiny", "queued"): 1}
