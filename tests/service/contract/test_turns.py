"""The forecast of turns: known cases by hand, and the record's own turns for the rest."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis

from service.contract.record import Record, RecordPolicy, Task
from service.contract.turns import Ahead, Turn, turns
from tests.support.jobs import Claimer, make_artifact, make_spec


def ahead(job: str, seconds: float, order: int, priority: str = "normal") -> Ahead:
    """A job named by its tenant's letter and a number."""
    return Ahead(job, job[0], priority, order, seconds)


def rounded(found: dict[str, Turn]) -> dict[str, tuple[float, float]]:
    return {name: (round(turn.begins, 6), round(turn.ends, 6)) for name, turn in found.items()}


def test_one_tenants_jobs_come_one_after_the_other() -> None:
    jobs = [ahead("a2", 6, 2), ahead("a1", 4, 1)]
    assert rounded(turns(jobs, 1)) == {"a1": (0, 4), "a2": (4, 10)}


def test_a_job_takes_one_worker_at_most() -> None:
    assert rounded(turns([ahead("a1", 4, 1)], 3)) == {"a1": (0, 4)}
    jobs = [ahead("a1", 4, 1), ahead("a2", 4, 2), ahead("a3", 4, 3)]
    assert rounded(turns(jobs, 2)) == {"a1": (0, 4), "a2": (0, 4), "a3": (4, 8)}


def test_tenants_share_and_the_short_job_is_not_behind_the_long() -> None:
    jobs = [*(ahead(f"a{n}", 100, n) for n in range(20)), ahead("b1", 5, 30)]
    assert rounded(turns(jobs, 1))["b1"] == (0, 10)


def test_a_higher_class_goes_first_and_what_is_over_goes_on() -> None:
    jobs = [ahead("a1", 4, 1, "low"), ahead("b1", 6, 2), ahead("c1", 2, 3, "high")]
    assert rounded(turns(jobs, 1)) == {"c1": (0, 2), "b1": (2, 8), "a1": (8, 12)}
    assert rounded(turns(jobs, 3)) == {"c1": (0, 2), "b1": (0, 6), "a1": (0, 4)}


def test_what_one_tenant_cannot_use_the_others_get() -> None:
    jobs = [ahead("a1", 9, 1), *(ahead(f"b{n}", 4, n) for n in (2, 3))]
    assert rounded(turns(jobs, 3)) == {"a1": (0, 9), "b2": (0, 4), "b3": (0, 4)}


def test_what_is_all_sampled_ends_at_once() -> None:
    assert rounded(turns([ahead("a1", 0, 1), ahead("b1", 3, 2)], 1))["a1"] == (0, 0)
    assert turns([], 2) == {}


def next_section(render: Claimer) -> Task | None:
    """The next section; what comes before a job's first costs nothing here."""
    while (task := render.claim()) is not None and task.kind == "encode":
        render.record.commit(task, make_artifact(task))
    return task


@pytest.mark.parametrize("workers", [1, 3])
def test_the_record_gives_the_turns_that_were_foretold(redis: Redis, workers: int) -> None:
    """Sections of one second, handed out by the real script to workers in lock step."""
    record = Record(redis, RecordPolicy(render_ahead=100))
    given = [("a", 12), ("a", 4), ("b", 6), ("c", 2), ("c", 2), ("c", 9)]
    specs = [make_spec(tenant, sections=sections) for tenant, sections in given]
    for spec in specs:
        record.submit(spec)
    jobs = [
        Ahead(spec.id, spec.tenant, spec.priority, order, spec.num_sections)
        for order, spec in enumerate(specs)
    ]
    foretold, ended = turns(jobs, workers), {}
    left = Counter({spec.id: spec.num_sections for spec in specs})
    renders = [Claimer(record) for _ in range(workers)]
    second = 0
    while left.total():
        second += 1
        for task in [task for render in renders if (task := next_section(render)) is not None]:
            record.commit(task, make_artifact(task))
            left[task.job_id] -= 1
            if not left[task.job_id]:
                ended[task.job_id] = second
    # Whole sections of several tenants do not end at the same time as slices of them do.
    for spec in specs:
        assert ended[spec.id] == pytest.approx(foretold[spec.id].ends, abs=3.0)
