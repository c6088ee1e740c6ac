"""Two versions alive at once: an upgrade goes worker by worker while jobs are in work.

The older one here is a job as the first release stored it,
without the fields that came later; the newer is of a version that this code does not know.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from service.contract.connections import KEY_PREFIX
from service.contract.job import OF_THE_JOB, SCHEMA_VERSION, JobRequest, JobStatus, Lane
from service.contract.record import Record, RecordPolicy, Task, WorkerIdentity
from tests.support.jobs import make_artifact, make_spec

LATER_FIELDS = {
    "spec": ("places", "order", "schedule", "traceparent"),
    "record": ("render.began", "cancel.at"),
}


@pytest.fixture
def record(redis: Redis) -> Record:
    return Record(redis, RecordPolicy(backoff_ms=(0,)))


@pytest.fixture
def claim(record: Record) -> Callable[[Lane], Task | None]:
    tokens = iter(map(str, range(100)))
    return lambda lane: record.claim(
        WorkerIdentity("worker", lane, {"tiny": "engine"}), next(tokens)
    )


def as_before(redis: Redis, job_id: str) -> None:
    """Take out of a stored job what the first release did not store."""
    key = f"{KEY_PREFIX}job:{job_id}"
    spec = json.loads(str(redis.hget(key, "spec")))
    for name in LATER_FIELDS["spec"]:
        spec.pop(name, None)
    redis.hset(key, "spec", json.dumps(spec))
    redis.hdel(key, *LATER_FIELDS["record"])


def finish(record: Record, claim: Callable[[Lane], Task | None]) -> None:
    """Do whatever can be claimed."""
    while any(_do(record, claim(lane)) for lane in Lane):
        pass


def _do(record: Record, task: Task | None) -> bool:
    if task is not None:
        record.commit(task, make_artifact(task))
    return task is not None


def test_a_job_of_an_older_release_is_finished_by_this_one(
    record: Record, redis: Redis, claim: Callable[[Lane], Task | None]
) -> None:
    spec = make_spec(sections=2)
    record.submit(spec)
    for _ in range(2):
        task = claim(Lane.RENDER)
        assert task is not None
        as_before(redis, spec.id)
        record.commit(task, make_artifact(task))
    as_before(redis, spec.id)
    finish(record, claim)
    assert record.get(spec.id).status is JobStatus.COMPLETED


def test_a_job_of_a_newer_release_waits_for_a_newer_worker(
    record: Record, redis: Redis, claim: Callable[[Lane], Task | None]
) -> None:
    """While a new gateway accepts, an old worker neither fails its jobs nor is held up by them."""
    newer = make_spec(schema_version=SCHEMA_VERSION + 1)
    record.submit(newer)
    ours = make_spec(sections=1)
    record.submit(ours)
    finish(record, claim)
    assert record.get(ours.id).status is JobStatus.COMPLETED
    assert record.get(newer.id).status is JobStatus.QUEUED
    record.sweep()
    assert record.get(newer.id).status is JobStatus.QUEUED


def test_what_was_not_asked_for_is_not_stored(record: Record, redis: Redis) -> None:
    """An older worker refuses fields it does not know: it must meet them only where they count."""
    spec = make_spec()
    record.submit(spec)
    stored = json.loads(str(redis.hget(f"{KEY_PREFIX}job:{spec.id}", "spec")))
    assert not stored["request"].keys() & OF_THE_JOB
    assert record.spec(spec.id) == spec
    assert spec.schema_version == 1


@pytest.mark.parametrize("asked", [{"metadata": {"a": "b"}}, {"retention_seconds": 60}])
def test_what_older_workers_stumble_at_is_of_a_form_they_leave_alone(
    record: Record, asked: dict[str, Any]
) -> None:
    spec = make_spec(request=JobRequest(prompt="x", preset="tiny", seed=1, **asked))
    record.submit(spec)
    assert spec.schema_version == 2
    assert record.spec(spec.id) == spec


def test_fields_that_only_a_newer_release_knows_are_kept(
    record: Record, redis: Redis, claim: Callable[[Lane], Task | None]
) -> None:
    spec = make_spec(sections=1)
    record.submit(spec)
    key = f"{KEY_PREFIX}job:{spec.id}"
    stored = json.loads(str(redis.hget(key, "spec")))
    request = {**stored["request"], "wish": "more"}
    newer = {**stored, "colour": "red", "request": request}
    redis.hset(key, mapping={"spec": json.dumps(newer), "mood": "good"})
    finish(record, claim)
    assert record.get(spec.id).status is JobStatus.COMPLETED
    assert redis.hget(key, "mood") == "good"
    assert json.loads(str(redis.hget(key, "spec")))["colour"] == "red"
