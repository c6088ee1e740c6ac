"""Cancelling and draining: seen within a step, and free of charge."""

from __future__ import annotations

import signal
import time

import pytest

from service.contract import events
from service.contract.job import JobStatus, Lane
from tests.e2e.conftest import REQUEST, Service
from tests.support.fleet import frozen

pytestmark = pytest.mark.slow


def test_a_cancel_is_seen_within_one_step(service: Service) -> None:
    fleet = service.fleet
    job_id = fleet.submit(**REQUEST)
    fleet.wait_for_step(job_id, section=0, step=10)
    assert fleet.record.cancel(job_id) is JobStatus.CANCELLING
    seen = fleet.record.progress(job_id)
    job = fleet.wait_for_end(job_id)

    assert job.status is JobStatus.CANCELLED
    assert fleet.names(job_id)[-2:] == [events.CANCELLING, events.CANCELLED]
    assert seen.section == 0
    assert seen.step is not None
    last = fleet.record.progress(job_id)
    assert last.step is not None
    assert last.step <= seen.step + 1 < REQUEST["steps"]
    assert fleet.stored(job_id, Lane.RENDER) == [fleet.committed(job_id)["render:0"]]


def test_a_paused_job_ends_its_section_and_goes_on_when_resumed(
    service: Service, undisturbed: bytes
) -> None:
    fleet = service.fleet
    job_id = fleet.submit(**REQUEST)
    fleet.wait_for_step(job_id, section=0, step=10)
    fleet.record.pause(job_id)
    fleet.wait_for(lambda: events.SECTION_SAMPLED in fleet.names(job_id))
    # Both lanes have work now and idle workers; whatever rings, none is handed out.
    fleet.bells.ring([(lane, "tiny") for lane in Lane])
    time.sleep(0.5)
    assert fleet.names(job_id)[-2:] == [events.PAUSED, events.SECTION_SAMPLED]
    assert fleet.record.progress(job_id).sections_sampled == 1
    _, ring = fleet.record.resume(job_id)
    fleet.bells.ring(ring)
    assert fleet.wait_for_end(job_id).status is JobStatus.COMPLETED
    assert fleet.video(job_id) == undisturbed


def test_a_drained_worker_ends_its_section_and_no_attempt_is_counted(
    service: Service, undisturbed: bytes
) -> None:
    fleet = service.fleet
    with frozen(service.render):
        worker = fleet.start_lane(Lane.RENDER)
        worker.wait_until_ready()
        job_id = fleet.submit(**REQUEST)
        fleet.wait_for_step(job_id, section=0, step=10)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert fleet.record.progress(job_id).sections_sampled == 1
    assert fleet.wait_for_end(job_id).status is JobStatus.COMPLETED
    assert events.RETRYING not in fleet.names(job_id)
    assert fleet.video(job_id) == undisturbed


def test_a_worker_without_time_to_drain_gives_the_section_back(
    service: Service, undisturbed: bytes
) -> None:
    fleet = service.fleet
    with frozen(service.render):
        worker = fleet.start_lane(Lane.RENDER, drain_seconds="0")
        worker.wait_until_ready()
        job_id = fleet.submit(**REQUEST)
        fleet.wait_for_step(job_id, section=0, step=10)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert f"sample 0: drained job_id={job_id}" in worker.text()
        assert fleet.record.progress(job_id).sections_sampled == 0
    assert fleet.wait_for_end(job_id).status is JobStatus.COMPLETED
    assert events.RETRYING not in fleet.names(job_id)
    assert fleet.video(job_id) == undisturbed
