"""Bells: a hint and nothing more, and no way to call anything else."""

from __future__ import annotations

import json
import zlib

import pytest
from rq.job import JobStatus as RqStatus

from service.contract.bells import ANSWER, MOST_WAITING, BellJob, Bells, ForeignBell
from service.contract.job import Lane


@pytest.fixture
def bells(redis_url: str) -> Bells:
    return Bells(redis_url)


def test_a_bell_names_its_lane(bells: Bells) -> None:
    bells.ring([(Lane.RENDER, "tiny"), (Lane.DELIVER, "tiny"), (Lane.RENDER, "tiny")])
    for lane in Lane:
        queue = bells.queue(lane, "tiny")
        assert queue.name == f"{lane}.tiny"
        assert [(job.func_name, job.args) for job in queue.jobs] == [(ANSWER, [str(lane)])]


def test_bells_do_not_pile_up(bells: Bells) -> None:
    for _ in range(3 * MOST_WAITING):
        bells.ring([(Lane.RENDER, "tiny")])
    assert bells.queue(Lane.RENDER, "tiny").count == MOST_WAITING


def test_bells_are_json(bells: Bells) -> None:
    """Loading one runs no code, whatever was put into the queue."""
    bells.ring([(Lane.RENDER, "tiny")])
    (job,) = bells.queue(Lane.RENDER, "tiny").jobs
    stored = job.connection.hget(job.key, "data")
    assert isinstance(stored, bytes)
    assert json.loads(zlib.decompress(stored))[0] == ANSWER


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "worker.tasks.serve"])
def test_other_functions_are_not_called(bells: Bells, name: str) -> None:
    """Whoever can write to Redis can queue anything; the job class refuses to look it up."""
    queue = bells.queue(Lane.RENDER, "tiny")
    queue.enqueue_call(name, args=("true",))
    (job,) = queue.jobs
    assert isinstance(job, BellJob)
    assert job.get_status() == RqStatus.QUEUED
    with pytest.raises(ForeignBell):
        _ = job.func
