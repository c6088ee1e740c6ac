"""When a job will be finished, from what was measured in this job; nothing measured, no answer.

Sections of one job cost the same, so the future is the past's pace: the usual time between two
sampled sections (waiting for other tenants' turns included, as it will go on), the part of the
section in work that its denoising steps have done, and the time the last sections took from latents
to clip. Where delivery is the slower lane, its own pace decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from service.contract.job import Event, JobStatus, Progress

MEASURED_EVENTS = 40
"""How many of the latest events are looked at: the last ten sections or so."""


def eta_seconds(
    status: JobStatus, progress: Progress, events: Sequence[Event], now: int
) -> float | None:
    """Seconds until the video is finished, or None where that cannot be known.

    Args:
        status: Only a running job has an answer.
        progress: How far the job is.
        events: The job's latest events, in order.
        now: Milliseconds since the epoch, on the Redis server's clock.
    """
    if status is not JobStatus.RUNNING or progress.total_sections == 0:
        return None
    pace = _pace(events, progress, now)
    if pace is None:
        return None
    part = _part_done(progress)
    left = max(0.0, progress.total_sections - progress.sections_sampled - part)
    render = left * pace + (_lag(events) or 0.0)
    return round(max(render, _deliver(events, progress, now)) / 1000, 1)


def _deliver(events: Sequence[Event], progress: Progress, now: int) -> float:
    """Milliseconds the deliver lane still needs at its own pace; 0 where that is not known."""
    completed = _times(events, "section.completed")
    pace = _interval(completed)
    if pace is None:
        return 0.0
    undelivered = progress.total_sections - progress.sections_completed
    return undelivered * pace - (now - max(completed.values()))


def _pace(events: Sequence[Event], progress: Progress, now: int) -> float | None:
    """Milliseconds a section takes in the render lane."""
    sampled = _times(events, "section.sampled")
    between = _interval(sampled)
    if between is not None:
        return between
    started = _times(events, "section.started")
    durations = [end - started[section] for section, end in sampled.items() if section in started]
    if durations:
        return median(durations)
    part = _part_done(progress)
    if part > 0 and progress.section in started:
        return (now - started[progress.section]) / part
    return None


def _part_done(progress: Progress) -> float:
    """How much of the section in work is done."""
    if progress.step is None or not progress.total_steps or progress.section is None:
        return 0.0
    if progress.section < progress.sections_sampled:
        return 0.0
    return min(1.0, progress.step / progress.total_steps)


def _lag(events: Sequence[Event]) -> float | None:
    """Milliseconds from a section's latents to its clip."""
    sampled, completed = _times(events, "section.sampled"), _times(events, "section.completed")
    lags = [at - sampled[section] for section, at in completed.items() if section in sampled]
    return median(lags) if lags else None


def _times(events: Sequence[Event], kind: str) -> dict[int, int]:
    """When each section last had an event of a kind."""
    return {int(event.data["section"]): event.at for event in events if event.type == kind}


def _interval(times: dict[int, int]) -> float | None:
    """The usual time between two of them."""
    gaps = [later - earlier for earlier, later in pairwise(sorted(times.values()))]
    return median(gaps) if gaps else None
