"""One job, and a worker that dies at every place where one can: the bytes of an undisturbed run.

A fresh worker is started for each place and kills itself there, so the job outlives as many
workers as there are places. At most three deaths fall on one task: a fourth would fail the job, as
it should. Who dies right after a commit holds the lane's next task already, if there is one. What
was committed before a death must stand after it, and be made by nobody again.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from framepack.models.tiny import build_folder
from service.contract import events
from service.contract.job import Lane
from tests.support.fleet import Fleet
from tests.support.valkey import Valkey

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"seconds": 2.4, "steps": 4, "seed": 11}
"""Two sections."""

PLACES = {
    Lane.RENDER: (
        "encode:-:claimed",
        "encode:-:uploaded",
        "encode:-:committed",
        "sample:0:claimed",
        "sample:0:step:2",
        "sample:0:committed",
        "sample:1:step:3",
        "sample:1:uploaded",
        "sample:1:committed",
    ),
    Lane.DELIVER: (
        "decode:0:claimed",
        "decode:0:uploaded",
        "decode:0:committed",
        "decode:1:decoded",
        "decode:1:committed",
        "finish:-:joined",
        "finish:-:uploaded",
    ),
}
"""In the order in which a job comes by. After the last commit there is no job left to be saved."""

LAST_OF_RENDER = "sample:1:committed"
"""Who dies here holds nothing."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    data = tmp_path_factory.mktemp("valkey")
    build_folder(folder / "nano", size="nano")
    settings = {"lease_seconds": "1", "backoff_seconds": "0,0", "max_crashes": "4"}
    with Valkey(data) as valkey, Fleet(valkey.url, folder / "nano", folder, **settings) as fleet:
        yield fleet


@pytest.mark.timeout(400)
def test_a_job_outlives_a_death_at_every_place(fleet: Fleet) -> None:
    job_id = fleet.submit(**REQUEST)
    deaths: Counter[Lane] = Counter()
    for lane, places in PLACES.items():
        for place in places:
            before = fleet.committed(job_id)
            victim = fleet.start_lane(lane, crash_point=place)
            assert victim.wait(60) == -signal.SIGKILL, f"did not reach {place}\n{victim.text()}"
            assert before.items() <= fleet.committed(job_id).items()
            deaths[lane] += place != LAST_OF_RENDER
        if lane is Lane.RENDER:
            assert set(fleet.committed(job_id)) == {"render:0", "render:1", "render:2"}
    job = _completed(fleet, job_id)

    names = fleet.names(job_id)
    assert names.count(events.RETRYING) == deaths.total()
    assert names.count(events.SECTION_SAMPLED) == 2
    assert sum(name in events.TERMINAL for name in names) == 1
    assert names[-1] == events.COMPLETED
    assert [e.sequence for e in fleet.events(job_id)] == list(range(1, len(names) + 1))
    assert job == fleet.video(_undisturbed(fleet))


def _completed(fleet: Fleet, job_id: str) -> bytes:
    """Its video, made to the end by whoever is left."""
    survivors = [fleet.start_lane(lane) for lane in Lane]
    assert fleet.wait_for_end(job_id, 90).status == "completed"
    assert all(survivor.process.is_alive() for survivor in survivors)
    return fleet.video(job_id)


def _undisturbed(fleet: Fleet) -> str:
    """The same request again, which nothing happens to: the survivors are at work."""
    job_id = fleet.submit(**REQUEST)
    assert fleet.wait_for_end(job_id, 90).status == "completed"
    return job_id
