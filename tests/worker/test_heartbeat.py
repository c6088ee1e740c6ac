from __future__ import annotations

import subprocess
import sys
import time

import pytest

from service.contract.connections import connect
from service.contract.job import Lane
from service.contract.record import Record
from tests.support.fleet import Fleet, wait_for
from tests.support.valkey import free_port
from tests.worker.conftest import LEASE_SECONDS, Claim
from worker.drain import UNFIT, Drain
from worker.heartbeat import Heartbeat
from worker.interruptions import TaskCancelled
from worker.lease import Lease
from worker.watchdog import Watchdog


def heartbeat_of(record: Record) -> Heartbeat:
    watchdog = Watchdog(LEASE_SECONDS, hard_maximum_seconds=60, grace_seconds=60)
    heartbeat = Heartbeat(record, watchdog)
    heartbeat.start()
    return heartbeat


def lease_on(fleet: Fleet, claim: Claim) -> Lease:
    fleet.submit()
    return Lease(claim(Lane.RENDER), LEASE_SECONDS, time.monotonic(), Drain())


def test_a_lease_lives_for_as_long_as_the_task(fleet: Fleet, record: Record, claim: Claim) -> None:
    lease = lease_on(fleet, claim)
    with heartbeat_of(record).keeping(lease):
        time.sleep(2 * LEASE_SECONDS)
        lease.check()
        assert record.sweep().lapsed == []
    time.sleep(1.5 * LEASE_SECONDS)
    assert record.sweep().lapsed == [(lease.task.job_id, Lane.RENDER)]


def test_a_lease_given_to_another_is_lost(fleet: Fleet, record: Record, claim: Claim) -> None:
    lease = lease_on(fleet, claim)
    time.sleep(LEASE_SECONDS + 0.1)
    assert record.sweep().lapsed
    assert claim(Lane.RENDER).fence > lease.task.fence
    with heartbeat_of(record).keeping(lease):
        wait_for(lambda: lease.is_refused, seconds=5)
    assert lease.lost


def test_a_cancel_arrives_with_the_heartbeat(fleet: Fleet, record: Record, claim: Claim) -> None:
    lease = lease_on(fleet, claim)
    with heartbeat_of(record).keeping(lease):
        record.cancel(lease.task.job_id)
        with pytest.raises(TaskCancelled):
            _go_on(lease, seconds=5)


def test_without_the_server_the_lease_runs_out(fleet: Fleet, claim: Claim) -> None:
    lease = lease_on(fleet, claim)
    nowhere = connect(f"redis://127.0.0.1:{free_port()}/0", retries=0)
    with heartbeat_of(Record(nowhere, fleet.record.policy)).keeping(lease):
        time.sleep(LEASE_SECONDS / 2)
        lease.check()  # unknown is not lost
        wait_for(lambda: lease.lost, seconds=5)
    assert not lease.is_refused


def test_the_workers_own_entry_is_kept_alive_during_a_task(
    fleet: Fleet, record: Record, claim: Claim
) -> None:
    kept: list[float] = []
    heartbeat = heartbeat_of(record)
    heartbeat.registers(lambda: kept.append(time.monotonic()))
    with heartbeat.keeping(lease_on(fleet, claim)):
        wait_for(lambda: bool(kept), seconds=5)


WITHOUT_MEMORY = """
import resource, sys, time
from service.contract.connections import connect
from service.contract.job import Lane
from service.contract.record import Record, RecordPolicy, WorkerIdentity
from worker.drain import Drain
from worker.heartbeat import Heartbeat
from worker.lease import Lease
from worker.watchdog import Watchdog

record = Record(connect(sys.argv[1]), RecordPolicy(lease_ms=800))
task = record.claim(WorkerIdentity("worker", Lane.RENDER, {"tiny": "engine"}), "token")
watchdog = Watchdog(0.8, hard_maximum_seconds=60, grace_seconds=60)
heartbeat = Heartbeat(record, watchdog)
heartbeat.start()
with watchdog.watching(), heartbeat.keeping(Lease(task, 0.8, time.monotonic(), Drain())):
    resource.setrlimit(resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
    time.sleep(20)
"""


def test_a_process_without_a_heartbeat_ends(redis_url: str, fleet: Fleet) -> None:
    """It would claim task after task and lose them all: here, for no thread can be started."""
    fleet.submit()
    command = [sys.executable, "-c", WITHOUT_MEMORY, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == UNFIT, done.stderr
    assert "the heartbeat has ended" in done.stderr
    wait_for(lambda: bool(fleet.record.sweep().lapsed), seconds=5)


def _go_on(lease: Lease, seconds: float) -> None:
    """Work until the lease says stop."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.02)
