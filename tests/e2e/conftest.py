"""One service for all tests of this folder: a render and a deliver worker under a supervisor."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from framepack.drift.codebook import Codebook
from framepack.models.tiny import build_folder
from framepack.presets import CODEBOOK
from tests.support.fleet import Fleet
from tests.support.valkey import Valkey

LEASE_SECONDS = 3.0
"""Short, for tests wait for leases to lapse; long enough for a machine that is busy otherwise."""

REQUEST: dict[str, Any] = {"seconds": 3.6, "steps": 100, "seed": 7}
"""Three sections of about half a second: long enough to do something in the middle of one."""


@dataclass(frozen=True)
class Service:
    """The service and its resident workers' process ids."""

    fleet: Fleet
    valkey: Valkey
    weights: Path
    render: int
    deliver: int


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose resident workers were started, and will be stopped, by the supervisor."""
    folder = tmp_path_factory.mktemp("service")
    weights = folder / "nano"
    build_folder(weights, size="nano")
    entries = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    Codebook(entries).save(weights / CODEBOOK)
    data = tmp_path_factory.mktemp("service-valkey")
    settings = {"lease_seconds": str(LEASE_SECONDS), "backoff_seconds": "0,0.5"}
    with Valkey(data) as valkey, Fleet(valkey.url, weights, folder, **settings) as fleet:
        supervisor, pids = fleet.supervise()
        yield Service(fleet, valkey, weights, **pids)
        supervisor.signal(signal.SIGTERM)
        assert supervisor.wait() == 0, supervisor.text()


@pytest.fixture(scope="package")
def undisturbed(service: Service) -> bytes:
    """The video of `REQUEST` when nothing goes wrong."""
    job = service.fleet.submit(**REQUEST)
    assert service.fleet.wait_for_end(job).status == "completed"
    return service.fleet.video(job)
