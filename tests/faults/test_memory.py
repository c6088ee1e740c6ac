"""No memory on the host, in the midst of a task: the process ends, and nobody else notices.

The limits are the kernel's. A worker is frozen at a place, loses its memory there, and goes on.
What happens then depends on who asks for memory first: Python and torch raise, which becomes a
problem document; the heartbeat ends the process; some C code does not look whether it got any. What
must hold is the same for all of them. How errors are told is in worker/test_runner.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framepack.models.tiny import build_folder
from service.contract import events
from service.contract.job import JobStatus, Lane
from tests.support.fleet import Fleet, Worker
from tests.support.memory import VARIABLE, group_without_memory, refuse_memory
from tests.support.valkey import Valkey
from worker.drain import UNFIT

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"seconds": 2.4, "steps": 4, "seed": 11}
"""Two sections."""

Start = Callable[..., tuple[Worker, str]]

ENDS = (UNFIT, 1, -signal.SIGSEGV, -signal.SIGABRT)
"""By its own decision, by Python's where an error could not even be handled, by C code's."""

REASONS = {"out_of_memory", "worker_lost", "worker_error"}

PLACES = ("encode:-:claimed", "sample:0:claimed", "decode:0:claimed", "decode:0:decoded")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    data = tmp_path_factory.mktemp("valkey")
    build_folder(folder / "nano", size="nano")
    settings = {"lease_seconds": "2", "backoff_seconds": "0,0"}
    with Valkey(data) as valkey, Fleet(valkey.url, folder / "nano", folder, **settings) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def undisturbed(fleet: Fleet) -> bytes:
    """The video of `REQUEST` when nothing goes wrong."""
    job_id = fleet.submit(**REQUEST)
    with_both_lanes(fleet, job_id)
    return fleet.video(job_id)


def with_both_lanes(fleet: Fleet, *job_ids: str) -> None:
    """Let other workers end the jobs."""
    workers = [fleet.start_lane(lane) for lane in Lane]
    for job_id in job_ids:
        assert fleet.wait_for_end(job_id, 90).status is JobStatus.COMPLETED
    for worker in workers:
        assert worker.process.is_alive()
        worker.end()


@pytest.fixture
def frozen_at(fleet: Fleet, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker that stops itself at a place. Gives it, and the job that it has."""
    started: list[Worker] = []

    def start(place: str, **settings: str) -> tuple[Worker, str]:
        lane = Lane.RENDER if place.startswith(("encode", "sample")) else Lane.DELIVER
        job_id = fleet.submit(**REQUEST)
        if lane is Lane.DELIVER:
            render = fleet.start_lane(Lane.RENDER)
            fleet.wait_for(lambda: "render:2" in fleet.committed(job_id))
            render.end()
        told = {"FRAMEPACK_CRASH_POINT": f"{place}@SIGSTOP", VARIABLE: "16384", **settings}
        worker = Worker(["--lane", lane], {**fleet.environment, **told}, tmp_path / "worker.log")
        started.append(worker)
        worker.wait_until_frozen()
        return worker, job_id

    yield start
    for worker in started:
        worker.end()


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_without_memory_ends_and_another_goes_on(
    fleet: Fleet, undisturbed: bytes, frozen_at: Start, place: str
) -> None:
    victim, job_id = frozen_at(place)
    before = fleet.committed(job_id)
    refuse_memory(victim.pid)
    victim.signal(signal.SIGCONT)
    assert victim.wait(60) in ENDS
    neighbour = fleet.submit(tenant="neighbour", **REQUEST)
    with_both_lanes(fleet, job_id, neighbour)

    retries = [e.data for e in fleet.events(job_id) if e.type == events.RETRYING]
    # None where the task got through and the process ended after it.
    assert {retry["reason"] for retry in retries} <= REASONS
    assert len(retries) <= 2, "a process fit for nothing went on"
    assert before.items() <= fleet.committed(job_id).items()
    assert fleet.video(job_id) == undisturbed
    assert fleet.video(neighbour) == undisturbed
    assert events.RETRYING not in fleet.names(neighbour)


def test_a_job_that_no_worker_has_the_memory_for_fails_with_the_reason(
    fleet: Fleet, undisturbed: bytes, frozen_at: Start
) -> None:
    victim, job_id = frozen_at("sample:0:claimed", FRAMEPACK_MAX_CRASHES="1")
    refuse_memory(victim.pid)
    victim.signal(signal.SIGCONT)
    assert victim.wait(60) in ENDS
    job = fleet.wait_for_end(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code in ("out_of_memory", "worker_crashed")
    assert job.error.retryable
    neighbour = fleet.submit(tenant="neighbour", **REQUEST)
    with_both_lanes(fleet, neighbour)
    assert fleet.video(neighbour) == undisturbed


def test_whom_the_kernel_kills_for_memory_has_crashed(
    fleet: Fleet, undisturbed: bytes, frozen_at: Start
) -> None:
    with group_without_memory() as group:
        victim, job_id = frozen_at("sample:1:step:1")
        before = fleet.committed(job_id)
        (group / "cgroup.procs").write_text(str(victim.pid))
        victim.signal(signal.SIGCONT)
        assert victim.wait(60) == -signal.SIGKILL
    assert "render:1" in before
    with_both_lanes(fleet, job_id)
    retries = [e.data for e in fleet.events(job_id) if e.type == events.RETRYING]
    assert [(retry["reason"], retry["crashes"]) for retry in retries] == [("worker_lost", 1)]
    assert before.items() <= fleet.committed(job_id).items()
    assert fleet.video(job_id) == undisturbed
