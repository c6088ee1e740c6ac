"""A job of one or two sections in a real record, for tests of a worker's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framepack.models.tiny import build_folder
from service.contract.job import Lane
from service.contract.record import Record, Task, WorkerIdentity
from tests.support.fleet import Fleet

LEASE_SECONDS = 0.8

Claim = Callable[[Lane], Task]


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the smallest preset."""
    folder = tmp_path_factory.mktemp("nano")
    build_folder(folder, size="nano")
    return folder


@pytest.fixture
def fleet(redis_url: str, nano: Path, tmp_path: Path) -> Iterator[Fleet]:
    """A service without workers and without a sweeper."""
    fleet = Fleet(redis_url, nano, tmp_path, lease_seconds=str(LEASE_SECONDS))
    yield fleet
    fleet.close()


@pytest.fixture
def record(fleet: Fleet) -> Record:
    """Leases are short here."""
    assert fleet.record.policy.lease_ms == int(1000 * LEASE_SECONDS)
    return fleet.record


@pytest.fixture
def claim(record: Record) -> Claim:
    """Claims the next task of a lane."""
    counter = iter(range(100))

    def claimed(lane: Lane) -> Task:
        number = next(counter)
        identity = WorkerIdentity(f"worker-{number}", lane, {"tiny": "engine"})
        task = record.claim(identity, f"token-{number}")
        assert task is not None
        return task

    return claimed
