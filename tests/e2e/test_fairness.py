"""A tenant with one job does not wait behind another's twenty."""

from __future__ import annotations

import pytest

from service.contract import events
from tests.e2e.conftest import Service

pytestmark = pytest.mark.slow

SECTIONS = {"many": 2, "one": 8}
STEPS = 50


def test_one_job_beside_twenty_gets_its_half_of_the_sections(service: Service) -> None:
    fleet = service.fleet
    many = [
        fleet.submit("many", seconds=1.2 * SECTIONS["many"], steps=STEPS, seed=n) for n in range(20)
    ]
    one = fleet.submit("one", seconds=1.2 * SECTIONS["one"], steps=STEPS)
    accepted = fleet.events(one)[0].at
    assert fleet.wait_for_end(one).status == "completed"

    def sampled(job_id: str) -> list[int]:
        return [e.at for e in fleet.events(job_id) if e.type == events.SECTION_SAMPLED]

    own = sampled(one)
    others = [at for job_id in many for at in sampled(job_id) if accepted <= at <= own[-1]]
    turns = "".join("1" if at in own else "." for at in sorted(own + others))
    assert len(own) == SECTIONS["one"]
    assert len(own) / (len(own) + len(others)) >= 0.45, turns
    # The other tenant had work all the time, so the share was contested.
    assert sum(SECTIONS["many"] for _ in many) > len(others) + 4
    unfinished = [job_id for job_id in many if not fleet.record.get(job_id).status.terminal]
    for job_id in unfinished:
        fleet.record.cancel(job_id)
    for job_id in many:
        fleet.wait_for_end(job_id)
