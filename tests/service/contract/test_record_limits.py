"""What a tenant may is decided in the step that accepts a job; what it had is counted exactly."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from service.contract.limits import (
    DAY_SECONDS,
    Limits,
    Quota,
    QuotaExceeded,
    ServiceFull,
    Tenants,
)
from service.contract.record import Record, RecordPolicy
from tests.support.jobs import Claimer, do_all, make_spec


def record_with(redis: Redis, open_jobs: int = 0, **limits: int) -> Record:
    policy = RecordPolicy(backoff_ms=(0,), limits=Limits(**limits), open_jobs=open_jobs)
    return Record(redis, policy)


def refusal(record: Record, tenant: str = "someone", **spec: Any) -> Quota:
    """How a submission is refused; one that is refused leaves nothing behind."""
    before = record.redis.dbsize(), record.redis.scard("framepack:open")
    with pytest.raises(QuotaExceeded) as refused:
        record.submit(make_spec(tenant, **spec))
    assert (record.redis.dbsize(), record.redis.scard("framepack:open")) == before
    return refused.value.quota


def test_without_limits_nothing_is_counted_against_anybody(redis: Redis) -> None:
    record = record_with(redis)
    for _ in range(200):
        assert record.submit(make_spec()).quota == Quota()


def test_jobs_at_once(redis: Redis) -> None:
    record = record_with(redis, jobs=2)
    first = make_spec()
    (policy,) = record.submit(first).quota.policies
    assert (policy.name, policy.limit, policy.left, policy.unit) == ("jobs", 2, 1, "jobs")
    record.submit(make_spec())
    assert refusal(record).refused == "jobs"
    with pytest.raises(QuotaExceeded):
        record.require_room("someone")
    # Others have room of their own, and an ended job makes room.
    record.require_room("another")
    record.submit(make_spec("another"))
    record.cancel(first.id)
    record.submit(make_spec())
    refusal(record)
    do_all(record)
    record.submit(make_spec())


def test_no_two_submissions_slip_through_one_gap(redis: Redis) -> None:
    record = record_with(redis, jobs=5)

    def accepted(_: int) -> bool:
        try:
            record.submit(make_spec())
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(accepted, range(40))) == 5


def test_submissions_a_minute(redis: Redis) -> None:
    record = record_with(redis, submissions=60)
    left = [record.submit(make_spec()).quota.policies[0].left for _ in range(60)]
    # A minute's worth may come at once; what comes later is let in a second apart.
    assert left[0] == 59
    assert left[-1] <= 2
    while True:
        try:
            record.submit(make_spec())
        except QuotaExceeded as error:
            quota = error.quota
            break
    (policy,) = quota.policies
    assert (quota.refused, policy.window, policy.left) == ("submissions", 60, 0)
    assert 0 < quota.retry_seconds <= 1
    assert 58_000 < (policy.reset or 0) <= 60_000
    time.sleep(quota.retry_seconds)
    record.submit(make_spec())


def test_a_refused_submission_uses_up_nothing_and_neither_does_a_repeated_one(
    redis: Redis,
) -> None:
    record = record_with(redis, jobs=1, submissions=1)
    spec = make_spec()
    assert record.submit(spec).created
    for _ in range(3):
        assert not record.submit(spec).created
    redis.delete("framepack:rate:someone")
    for _ in range(3):
        assert refusal(record).refused == "jobs"
    assert redis.exists("framepack:rate:someone") == 0


def test_seconds_of_work(redis: Redis) -> None:
    """Before anything is measured a unit of cost counts 57 ms."""
    record = record_with(redis, gpu_seconds=100)
    # 10 sections of 100 units: 57 s, then 43 are left.
    (policy,) = record.submit(make_spec(sections=10, section_cost=100.0)).quota.policies
    assert (policy.name, policy.left) == ("gpu-seconds", 43)
    quota = refusal(record, sections=10, section_cost=100.0)
    assert quota.retry_seconds == pytest.approx(14)
    record.submit(make_spec(sections=7, section_cost=100.0))
    # Work that is done counts no longer, at the pace that was measured.
    do_all(record)
    record.submit(make_spec(sections=10, section_cost=100.0))
    # A tenant's only job is taken whatever its length.
    record.submit(make_spec("another", sections=1000, section_cost=1e6))


def test_retry_after_is_the_work_that_is_left(redis: Redis) -> None:
    record = record_with(redis, jobs=2)
    redis.hset("framepack:pace", "tiny", "1000")
    record.submit(make_spec(sections=9))
    record.submit(make_spec(sections=4))
    # The shorter one has four sections of a second; nobody else waits.
    assert refusal(record).retry_seconds == pytest.approx(4)
    # With another tenant's work between, it takes twice as long.
    record.submit(make_spec("another", sections=50))
    assert refusal(record).retry_seconds == pytest.approx(8)
    # And with two workers it is done in half the time.
    for _ in range(2):
        Claimer(record).must_claim()
    assert refusal(record).retry_seconds == pytest.approx(4)


def test_only_paused_jobs_give_no_estimate(redis: Redis) -> None:
    record = record_with(redis, jobs=1)
    spec = make_spec()
    record.submit(spec)
    record.pause(spec.id)
    assert refusal(record).retry_seconds == 60


def test_a_full_service_takes_nobodys_job(redis: Redis) -> None:
    record = record_with(redis, open_jobs=2)
    redis.hset("framepack:pace", "tiny", "1000")
    specs = [make_spec(name, sections=6) for name in ("a", "b")]
    for spec in specs:
        record.submit(spec)
    for tenant in ("a", "c"):
        with pytest.raises(ServiceFull):
            record.submit(make_spec(tenant))
        with pytest.raises(ServiceFull):
            record.require_room(tenant)
    # A job that is there already is still found.
    assert record.submit(specs[0]).created is False
    do_all(record)
    record.submit(make_spec("c"))


def test_a_tenant_may_have_other_limits(redis: Redis) -> None:
    record, tenants = record_with(redis, jobs=1), Tenants(redis)
    tenants.set_limits("large", {"jobs": 3})
    tenants.set_limits("free", {"jobs": 0})
    record.submit(make_spec("small"))
    refusal(record, "small")
    for _ in range(3):
        record.submit(make_spec("large"))
    refusal(record, "large")
    for _ in range(5):
        record.submit(make_spec("free"))
    tenants.set_limits("large", {"jobs": None})
    assert tenants.limits("large", Limits(jobs=1)) == Limits(jobs=1)


def test_a_job_whose_record_was_lost_does_not_count_for_ever(redis: Redis) -> None:
    record = record_with(redis, jobs=1)
    spec = make_spec()
    record.submit(spec)
    redis.delete(f"framepack:job:{spec.id}")
    record.sweep()
    record.submit(make_spec())


def test_jobs_accepted_before_limits_were_counted_are_found(redis: Redis) -> None:
    record = record_with(redis, jobs=1)
    record.submit(make_spec())
    redis.delete("framepack:live:someone")
    record.sweep()
    refusal(record)


def test_usage_is_counted_by_day(redis: Redis) -> None:
    record, tenants = record_with(redis), Tenants(redis)
    record.submit(make_spec(sections=3))
    do_all(record)
    spec = make_spec()
    record.submit(spec)
    record.cancel(spec.id)
    usage = tenants.usage("someone", 1)
    assert usage.pop("gpu_ms") >= 0
    assert usage == {
        "jobs": 2,
        "completed": 1,
        "failed": 0,
        "cancelled": 1,
        "sections": 3,
        "bytes": 8,  # four tasks a lane, one byte each
    }
    # What happened long ago is dropped as new work is counted; the days between are kept.
    today = int(time.time()) // DAY_SECONDS
    old: dict[Any, Any] = {"first": today - 400, f"{today - 400} jobs": 5, f"{today - 20} jobs": 7}
    redis.hset("framepack:usage:someone", mapping=old)
    record.submit(make_spec())
    assert tenants.usage("someone", 1000)["jobs"] == 3 + 7
    assert tenants.usage("someone", 20)["jobs"] == 3
