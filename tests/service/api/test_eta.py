"""The ETA against jobs whose whole course is known."""

import pytest

from service.api.eta import eta_seconds
from service.contract.job import Event, JobStatus, Progress

TOTAL = 6
STEPS = 10


def event(kind: str, at: int, section: int) -> Event:
    return Event(job_id="0" * 32, sequence=1, type=kind, at=at, data={"section": section})


def steady(sampled: int, *, pace: int = 4000, lag: int = 1500) -> list[Event]:
    """A job that samples a section every `pace` and has its clip `lag` later (milliseconds)."""
    events = []
    for section in range(sampled):
        events.append(event("section.started", pace * section, section))
        events.append(event("section.sampled", pace * (section + 1), section))
        events.append(event("section.completed", pace * (section + 1) + lag, section))
    return sorted((one for one in events if one.at <= pace * sampled), key=lambda one: one.at)


def progress(sampled: int, *, step: int | None = None, completed: int | None = None) -> Progress:
    return Progress(
        sections_sampled=sampled,
        sections_completed=sampled if completed is None else completed,
        total_sections=TOTAL,
        section=sampled,
        step=step,
        total_steps=STEPS,
    )


def test_nothing_measured_gives_no_answer() -> None:
    assert eta_seconds(JobStatus.RUNNING, Progress(), [], 0) is None
    assert eta_seconds(JobStatus.RUNNING, progress(0), [event("queued", 0, 0)], 99) is None


@pytest.mark.parametrize("status", [status for status in JobStatus if status != "running"])
def test_only_running_jobs_have_an_answer(status: JobStatus) -> None:
    assert eta_seconds(status, progress(3), steady(3), 12_000) is None


def test_a_steady_job_is_predicted_exactly() -> None:
    # 3 of 6 sections sampled by 12 s: the last latents come at 24 s, their clip at 25.5 s.
    now = progress(3, completed=2)
    assert eta_seconds(JobStatus.RUNNING, now, steady(3), 12_000) == 13.5


def test_steps_of_the_section_in_work_count() -> None:
    halfway = progress(3, step=STEPS // 2, completed=3)
    events = [*steady(3), event("section.completed", 13_500, 2)]
    assert eta_seconds(JobStatus.RUNNING, halfway, events, 14_000) == 11.5


def test_the_first_section_is_measured_by_its_steps() -> None:
    events = [event("section.started", 1000, 0)]
    # 2 of 10 steps in 1 s: 5 s a section, 6 sections, of which 1 s is over.
    assert eta_seconds(JobStatus.RUNNING, progress(0, step=2), events, 2000) == 29.0


def test_waiting_for_other_tenants_turns_is_part_of_the_pace() -> None:
    events = [
        event("section.started", 0, 0),
        event("section.sampled", 1000, 0),
        event("section.started", 9000, 1),
        event("section.sampled", 10_000, 1),
    ]
    assert eta_seconds(JobStatus.RUNNING, progress(2, completed=0), events, 10_000) == 36.0


def test_the_slower_lane_decides() -> None:
    events = [
        *(event("section.sampled", 1000 * (section + 1), section) for section in range(6)),
        event("section.completed", 5000, 0),
        event("section.completed", 10_000, 1),
    ]
    # All is sampled; 4 sections are undelivered at 5 s each.
    assert eta_seconds(JobStatus.RUNNING, progress(6, completed=2), events, 10_000) == 20.0


def test_a_section_sampled_twice_after_a_crash_counts_its_last_start() -> None:
    events = [
        event("section.started", 0, 0),
        event("section.started", 60_000, 0),
        event("section.sampled", 64_000, 0),
    ]
    assert eta_seconds(JobStatus.RUNNING, progress(1, completed=0), events, 64_000) == 20.0
