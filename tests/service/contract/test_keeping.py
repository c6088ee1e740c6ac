"""What the record knows of stored objects that are no longer needed."""

import time
import uuid
from typing import Any

import pytest

from service.contract.errors import JobNotFound, UploadTooSlow
from service.contract.job import JobRequest
from service.contract.keeping import Keeping, Removal
from service.contract.listing import Listing
from service.contract.record import Record, RecordPolicy
from tests.support.jobs import do_all, make_spec

HOUR = 3600 * 1000
RETENTION_MS = 2500


@pytest.fixture
def record(redis: Any) -> Record:
    return Record(redis, RecordPolicy(retention_ms=RETENTION_MS))


@pytest.fixture
def keeping(redis: Any) -> Keeping:
    return Keeping(redis)


def ended(record: Record, **fields: Any) -> str:
    spec = make_spec(request=JobRequest(prompt="x", preset="tiny", seed=1, **fields))
    record.submit(spec)
    do_all(record)
    return spec.id


def test_an_ended_job_is_kept_for_its_time_and_then_its_files_are_due(
    record: Record, keeping: Keeping
) -> None:
    short, long = ended(record), ended(record, retention_seconds=60)
    tenant = record.spec(short).tenant
    assert keeping.due(HOUR) == []
    time.sleep(RETENTION_MS / 1000 + 0.1)
    with pytest.raises(JobNotFound):
        record.get(short)
    assert keeping.expired(tenant, short)
    assert not keeping.expired("somebody else", short)
    removal = Removal(short, "expired")
    assert keeping.due(HOUR) == [removal]
    assert keeping.due(HOUR) == [removal], "a cleaner that died forgot what it had to do"
    keeping.removed(removal)
    assert keeping.due(HOUR) == []
    assert Listing(record.redis).page(tenant, 10).ids == [long]
    expires = record.expires_at(long)
    assert expires is not None
    assert 0 < expires - record.now() <= 60_000


def test_a_deleted_job_is_forgotten_altogether(record: Record, keeping: Keeping) -> None:
    job_id = ended(record)
    tenant = record.spec(job_id).tenant
    Listing(record.redis).delete(job_id)
    time.sleep(RETENTION_MS / 1000 + 0.1)
    assert keeping.due(HOUR) == []
    assert not keeping.expired(tenant, job_id)


def test_a_picture_without_a_job_is_due_once_it_is_old(record: Record, keeping: Keeping) -> None:
    lost, used = uuid.uuid4().hex, make_spec()
    keeping.announce(lost)
    keeping.announce(used.id)
    record.submit(used, announced=True)
    assert keeping.due(HOUR) == []
    assert keeping.due(0) == [Removal(lost, "upload")]


def test_a_submission_that_was_swept_is_refused(record: Record, keeping: Keeping) -> None:
    spec = make_spec()
    keeping.announce(spec.id)
    time.sleep(0.002)
    assert keeping.due(0) == [Removal(spec.id, "upload")]
    with pytest.raises(UploadTooSlow):
        record.submit(spec, announced=True)
    with pytest.raises(JobNotFound):
        record.get(spec.id)


def test_an_accepted_submission_may_be_repeated(record: Record, keeping: Keeping) -> None:
    spec = make_spec()
    keeping.announce(spec.id)
    assert record.submit(spec, announced=True).created
    assert not record.submit(spec, announced=True).created


def test_strangers_are_those_nothing_refers_to(record: Record, keeping: Keeping) -> None:
    spec, uploading, stranger = make_spec(), uuid.uuid4().hex, uuid.uuid4().hex
    record.submit(spec)
    keeping.announce(uploading)
    assert keeping.strangers([spec.id, uploading, stranger]) == {stranger}
    keeping.due(0)
    assert keeping.strangers([uploading]) == set(), "it is being removed by whoever was told"


def test_a_record_is_itself_until_it_is_emptied(redis: Any, keeping: Keeping) -> None:
    before = keeping.identity()
    assert keeping.identity() == before
    redis.flushall()
    assert keeping.identity() != before


def test_one_of_many_takes_a_turn(keeping: Keeping) -> None:
    assert keeping.take_turn("strays", 200)
    assert not keeping.take_turn("strays", 200)
    time.sleep(0.25)
    assert keeping.take_turn("strays", 200)
