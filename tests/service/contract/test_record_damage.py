"""Records that are damaged, gone, or known to nobody: their job ends, and no other job waits."""

from __future__ import annotations

import json
import time

import pytest
from redis import Redis

from service.contract import eventlog
from service.contract.errors import JobNotFound, RecordUnreadable
from service.contract.job import SCHEMA_VERSION, Job, JobStatus, Lane, apply
from service.contract.record import Record, RecordPolicy
from tests.support.jobs import PRESET, Claimer, do_all, make_artifact, make_spec

LEASE_MS = 200


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
    job: Job | None = None
    for event in eventlog.read(record.redis, job_id):
        job = apply(job, event)
    assert job is not None
    return job


def key(job_id: str) -> str:
    return f"framepack:job:{job_id}"


DAMAGE: list[tuple[str, str | None]] = [
    ("version", "abc"),
    ("version", None),
    ("spec", None),
    ("spec", "{not json"),
    ("tenant", None),
    ("preset", None),
    ("priority", None),
    ("priority", "urgent"),
    ("status", None),
    ("status", "of another world"),
    ("sections", None),
    ("sections", "-3"),
    ("cost", "a lot"),
    ("sequence", "x"),
    ("render.next", "x"),
    ("render.fence", "9" * 30),
    ("retention", "x"),
    ("artifact:render:first", "{}"),
    ("artifact:render:0", "{}"),
]


@pytest.mark.parametrize(("field", "value"), DAMAGE)
class TestAnyDamagedField:
    def damage(self, redis: Redis, job_id: str, field: str, value: str | None) -> None:
        if value is None:
            redis.hdel(key(job_id), field)
        else:
            redis.hset(key(job_id), field, value)

    def test_of_a_waiting_job(
        self, record: Record, redis: Redis, field: str, value: str | None
    ) -> None:
        broken, fine = make_spec(), make_spec()
        record.submit(broken)
        record.submit(fine)
        self.damage(redis, broken.id, field, value)
        assert Claimer(record).must_claim().job_id == fine.id
        assert Claimer(record).claim() is None
        self.assert_failed(record, broken.id)
        assert record.sweep().ring == []

    def test_of_a_job_in_work(
        self, impatient: Record, redis: Redis, field: str, value: str | None
    ) -> None:
        broken, fine = make_spec(), make_spec()
        impatient.submit(broken)
        impatient.submit(fine)
        assert Claimer(impatient).must_claim().job_id == broken.id
        self.damage(redis, broken.id, field, value)
        wait_for_lapse()
        assert Claimer(impatient).must_claim().job_id == fine.id
        self.assert_failed(impatient, broken.id)

    def assert_failed(self, record: Record, job_id: str) -> None:
        found = eventlog.read(record.redis, job_id)
        assert found[-1].type == "failed"
        assert found[-1].data["error"]["code"] == "invalid_record"
        assert [event.sequence for event in found] == list(range(1, len(found) + 1))
        assert 0 < record.redis.ttl(key(job_id)) <= 7 * 24 * 3600


class TestDamage:
    def test_a_failed_record_can_be_read_as_its_events_tell(
        self, record: Record, redis: Redis
    ) -> None:
        broken = make_spec()
        record.submit(broken)
        redis.hset(key(broken.id), "spec", "{not json")
        assert Claimer(record).claim() is None
        job = record.get(broken.id)
        assert job.status is JobStatus.FAILED
        assert job == folded(record, broken.id)
        with pytest.raises(RecordUnreadable) as caught:
            record.spec(broken.id)
        assert "not json" not in str(caught.value), "a record holds prompts; logs must not"

    @pytest.mark.parametrize("lapsed", [False, True])
    def test_a_key_of_another_kind_blocks_nobody(
        self, impatient: Record, redis: Redis, lapsed: bool
    ) -> None:
        broken, fine = make_spec(), make_spec()
        impatient.submit(broken)
        impatient.submit(fine)
        if lapsed:
            assert Claimer(impatient).must_claim().job_id == broken.id
            wait_for_lapse()
        redis.delete(key(broken.id))
        redis.set(key(broken.id), "not a hash")
        assert Claimer(impatient).must_claim().job_id == fine.id
        impatient.sweep()

    def test_a_stream_of_another_kind_blocks_nobody(self, record: Record, redis: Redis) -> None:
        broken, fine = make_spec(), make_spec()
        record.submit(broken)
        record.submit(fine)
        redis.hdel(key(broken.id), "tenant")
        redis.delete(f"{key(broken.id)}:events")
        redis.set(f"{key(broken.id)}:events", "not a stream")
        assert Claimer(record).must_claim().job_id == fine.id

    def test_a_record_that_is_gone_blocks_nobody(self, record: Record, redis: Redis) -> None:
        gone, fine = make_spec(), make_spec()
        record.submit(gone)
        record.submit(fine)
        redis.delete(key(gone.id))
        assert Claimer(record).must_claim().job_id == fine.id
        with pytest.raises(JobNotFound):
            record.get(gone.id)

    def test_what_a_later_writer_adds_is_ignored(self, record: Record, redis: Redis) -> None:
        spec = make_spec()
        record.submit(spec)
        stored = json.loads(spec.model_dump_json()) | {"of_a_later_version": 1}
        redis.hset(key(spec.id), "spec", json.dumps(stored))
        redis.hset(key(spec.id), "of_a_later_version", "1")
        assert Claimer(record).must_claim().spec == spec

    def test_what_an_older_writer_did_not_know_has_a_default(
        self, record: Record, redis: Redis
    ) -> None:
        spec = make_spec(sections=1)
        record.submit(spec)
        redis.hdel(key(spec.id), "deliver.next", "deliver.crashes", "cost", "retention", "order")
        assert record.get(spec.id).status is JobStatus.QUEUED
        assert record.progress(spec.id).sections_completed == 0
        do_all(record)
        assert record.get(spec.id).status is JobStatus.COMPLETED

    def test_a_record_of_a_later_version_waits_for_a_worker_that_knows_it(
        self, record: Record
    ) -> None:
        newer, known = make_spec(schema_version=SCHEMA_VERSION + 1), make_spec()
        record.submit(newer)
        record.submit(known)
        assert Claimer(record).must_claim().job_id == known.id
        assert Claimer(record).claim() is None
        assert record.get(newer.id).status is JobStatus.QUEUED

    def test_scripts_survive_a_server_that_forgot_them(self, record: Record, redis: Redis) -> None:
        record.submit(make_spec())
        redis.script_flush()
        assert Claimer(record).claim() is not None


class TestHealing:
    """Whatever an index lost, a sweep finds again from the jobs that have not ended."""

    @pytest.mark.parametrize("index", ["ready", "active"])
    def test_work_nobody_would_find(self, record: Record, redis: Redis, index: str) -> None:
        spec = make_spec()
        record.submit(spec)
        self.lose(redis, index)
        assert Claimer(record).claim() is None
        assert record.sweep().ring == [(Lane.RENDER, PRESET)]
        assert Claimer(record).must_claim().job_id == spec.id

    def test_work_nobody_would_ring_for(self, record: Record, redis: Redis) -> None:
        record.submit(make_spec())
        self.lose(redis, "pools")
        assert record.sweep().ring == [(Lane.RENDER, PRESET)]

    def test_a_lease_nobody_would_miss(self, impatient: Record, redis: Redis) -> None:
        spec = make_spec()
        impatient.submit(spec)
        Claimer(impatient).must_claim()
        redis.delete("framepack:leases")
        wait_for_lapse()
        assert Claimer(impatient).claim() is None
        impatient.sweep()
        assert impatient.sweep().lapsed == [(spec.id, Lane.RENDER)]
        assert Claimer(impatient).must_claim().crashes == 1

    def test_a_pause_nobody_would_end(self, redis: Redis) -> None:
        record = Record(redis, RecordPolicy(lease_ms=50, backoff_ms=(100,)))
        record.submit(make_spec())
        Claimer(record).must_claim()
        time.sleep(0.06)
        record.sweep()
        assert redis.delete("framepack:delayed") == 1
        time.sleep(0.12)
        record.sweep()
        assert Claimer(record).claim() is not None

    def test_many_jobs_a_few_at_a_time(self, record: Record, redis: Redis) -> None:
        for _ in range(300):
            record.submit(make_spec(sections=1))
        self.lose(redis, "ready")
        self.lose(redis, "active")
        sweeps = 0
        while redis.zcard(f"framepack:ready:render:normal:someone:{PRESET} - 1") < 300:
            record.sweep(limit=50)
            sweeps += 1
            assert sweeps < 40
        assert sweeps > 3

    def test_healing_moves_nobody(self, record: Record) -> None:
        """A job that waits keeps its place, one in work is not handed out again."""
        specs = [make_spec() for _ in range(3)]
        for spec in specs:
            record.submit(spec)
        in_work = Claimer(record).must_claim()
        before = [eventlog.read(record.redis, spec.id) for spec in specs]
        for _ in range(3):
            record.sweep()
        assert [eventlog.read(record.redis, spec.id) for spec in specs] == before
        assert [record.queue_position(spec.id) for spec in specs] == [None, 1, 2]
        assert record.commit(in_work, make_artifact(in_work)).accepted

    def lose(self, redis: Redis, index: str) -> None:
        found = list(redis.scan_iter(f"framepack:{index}:*"))
        assert found
        redis.delete(*found)


class TestSweeping:
    def test_finds_lapsed_leases_and_work_nobody_was_told_of(self, impatient: Record) -> None:
        spec = make_spec()
        impatient.submit(spec)
        Claimer(impatient).must_claim()
        assert impatient.sweep().lapsed == []
        wait_for_lapse()
        swept = impatient.sweep()
        assert swept.lapsed == [(spec.id, Lane.RENDER)]
        assert swept.ring == [(Lane.RENDER, PRESET)]

    def test_is_quiet_when_there_is_nothing(self, record: Record) -> None:
        swept = record.sweep()
        assert (swept.lapsed, swept.ring) == ([], [])

    def test_ended_jobs_leave_nothing_behind_but_themselves(
        self, record: Record, redis: Redis
    ) -> None:
        spec = make_spec(sections=1)
        record.submit(spec)
        do_all(record)
        keys = {key for key in redis.scan_iter() if ":claim:" not in key}
        assert keys == {
            f"framepack:job:{spec.id}",
            f"framepack:job:{spec.id}:events",
            f"framepack:gone:{spec.id}",
            "framepack:expiring",
            "framepack:events",
            "framepack:submitted",
            "framepack:listed:someone",
            "framepack:counts",
            "framepack:pace",
            "framepack:usage:someone",
            "framepack:served:render:normal",
            "framepack:served:deliver:normal",
        }
        week = 7 * 24 * 3600
        assert week - 60 < redis.ttl(f"framepack:job:{spec.id}") <= week

    def test_an_idle_sweep_writes_nothing(self, record: Record, redis: Redis) -> None:
        """Every gateway sweeps every two seconds; with fsync always, a write is a disk's turn."""
        record.submit(make_spec())
        record.sweep()
        before = redis.info("persistence")["aof_current_size"]
        for _ in range(20):
            record.sweep()
        assert redis.info("persistence")["aof_current_size"] == before
