"""The record on the other server operators run: Debian's redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.contract import eventlog
from service.contract.connections import connect
from service.contract.job import Job, JobStatus, Lane, apply
from service.contract.record import Record
from tests.support.jobs import Claimer, do_all, make_spec
from tests.support.system import require_program
from tests.support.valkey import Valkey


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Valkey]:
    program = require_program("redis-server", package="redis-server")
    with Valkey(tmp_path, program) as server:
        yield server


def test_a_job_goes_its_way_and_survives_a_kill_of_the_server(redis_server: Valkey) -> None:
    with connect(redis_server.url) as client:
        record = Record(client)
        spec = make_spec(sections=3)
        record.submit(spec)
        for lane in (Lane.RENDER, Lane.RENDER, Lane.DELIVER):
            assert Claimer(record, lane).do_one() is not None
        before = record.get(spec.id)
        redis_server.kill()
        redis_server.start()
        assert record.get(spec.id) == before
        do_all(record)
        assert record.get(spec.id).status is JobStatus.COMPLETED
        job: Job | None = None
        for event in eventlog.read(client, spec.id):
            job = apply(job, event)
        assert job == record.get(spec.id)
