"""Workers that die or freeze in the middle: the same bytes, nothing twice, nothing half."""

from __future__ import annotations

import signal
import time

import pytest

from service.contract import events
from service.contract.job import Lane
from tests.e2e.conftest import LEASE_SECONDS, REQUEST, Service
from tests.support.fleet import frozen

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("lane", "place", "settled"),
    [
        (Lane.RENDER, "sample:1:step:50", {"render:0", "render:1"}),
        (Lane.DELIVER, "decode:1:decoded", {"deliver:0"}),
    ],
)
def test_a_killed_workers_job_is_finished_by_another_with_the_same_bytes(
    service: Service, undisturbed: bytes, lane: Lane, place: str, settled: set[str]
) -> None:
    fleet = service.fleet
    with frozen(service.render if lane is Lane.RENDER else service.deliver):
        victim = fleet.start_lane(lane, crash_point=place)
        victim.wait_until_ready()
        job_id = fleet.submit(**REQUEST)
        assert victim.wait() == -signal.SIGKILL
        before = fleet.committed(job_id)
    job = fleet.wait_for_end(job_id)

    assert {name for name in before if name.startswith(lane)} == settled
    assert job.status == "completed"
    assert fleet.video(job_id) == undisturbed
    # What was committed stayed, and nothing was made a second time.
    after = fleet.committed(job_id)
    assert before.items() <= after.items()
    assert sorted(fleet.stored(job_id, lane)) == sorted(
        key for name, key in after.items() if name.startswith(lane) and "video" not in key
    )
    retries = [e.data for e in fleet.events(job_id) if e.type == events.RETRYING]
    assert [(r["lane"], r["reason"], r["crashes"]) for r in retries] == [(lane, "worker_lost", 1)]
    assert _count(fleet.names(job_id), events.TERMINAL) == 1


def test_a_worker_that_was_frozen_past_its_lease_cannot_commit(
    service: Service, undisturbed: bytes
) -> None:
    fleet = service.fleet
    with frozen(service.render):
        sleeper = fleet.start_lane(Lane.RENDER, crash_point="sample:1:uploaded@SIGSTOP")
        sleeper.wait_until_ready()
        job_id = fleet.submit(**REQUEST)
        fleet.wait_for(lambda: len(fleet.stored(job_id, Lane.RENDER)) == 3)
    # The sleeper wakes up between the lapse of its lease and the watchdog's patience.
    fleet.wait_for(lambda: events.RETRYING in fleet.names(job_id), seconds=2 * LEASE_SECONDS)
    sleeper.signal(signal.SIGCONT)
    fleet.wait_for(lambda: "sample 1" in sleeper.text())
    sleeper.end()  # it would freeze at the same place of the next job
    job = fleet.wait_for_end(job_id)

    assert f"sample 1: lost job_id={job_id}" in sleeper.text()
    assert job.status == "completed"
    assert fleet.video(job_id) == undisturbed
    # Both uploaded section 1, the same bytes under two keys; the record names one of them.
    committed = fleet.committed(job_id)
    uploaded = fleet.stored(job_id, Lane.RENDER)
    twice = [key for key in uploaded if key not in committed.values()]
    assert len(twice) == 1
    assert fleet.storage.get(twice[0]) == fleet.storage.get(committed["render:2"])
    assert fleet.names(job_id).count(events.SECTION_SAMPLED) == 3
    assert _count(fleet.names(job_id), events.TERMINAL) == 1


def test_workers_outlive_a_server_that_is_away_for_longer_than_a_lease(
    service: Service, undisturbed: bytes
) -> None:
    fleet = service.fleet
    job_id = fleet.submit(**REQUEST)
    fleet.wait_for_step(job_id, section=1, step=10)
    service.valkey.kill()
    time.sleep(LEASE_SECONDS + 1)
    service.valkey.start()
    job = fleet.wait_for_end(job_id)

    assert job.status == "completed"
    assert fleet.video(job_id) == undisturbed
    assert _count(fleet.names(job_id), events.TERMINAL) == 1
    # The models stayed loaded: it is still the same processes.
    assert fleet.supervised() == {"render": service.render, "deliver": service.deliver}


def _count(names: list[str], wanted: frozenset[str]) -> int:
    return sum(name in wanted for name in names)
