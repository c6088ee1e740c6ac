"""A job as JSON, put together from the record, its stream and the links when somebody reads it."""

from __future__ import annotations

import hashlib
import time

from redis.exceptions import RedisError

from service.api.deps import Services
from service.api.eta import MEASURED_EVENTS, eta_seconds
from service.api.plan_views import plan_view, video_view
from service.contract.eventlog import read
from service.contract.job import Job, JobSpec, JobStatus, Progress
from service.contract.views import (
    InputView,
    JobView,
    Links,
    ProgressView,
    utc,
)


def job_view(parts: Services, spec: JobSpec) -> JobView:
    """The job as it is now.

    Raises:
        JobNotFound: It has expired.
    """
    job, progress, metrics = parts.record.look(spec.id)
    queued = job.status is JobStatus.QUEUED
    position = parts.record.queue_position(spec.id) if queued else None
    expires = parts.record.expires_at(spec.id) if job.status.terminal else None
    return _put_together(parts, spec, job, progress).model_copy(
        update={
            "expires_at": None if expires is None else utc(expires),
            "queue_position": position,
            "eta_seconds": _eta(parts, spec, job, progress),
            "metrics": metrics,
        }
    )


def just_accepted(parts: Services, spec: JobSpec) -> JobView:
    """A job just accepted: that must be said, even if the record has gone away since."""
    try:
        return job_view(parts, spec)
    except RedisError:
        now = int(1000 * time.time())
        job = Job(id=spec.id, status=JobStatus.QUEUED, created_at=now, last_sequence=1)
        return _put_together(parts, spec, job, Progress(total_sections=spec.num_sections))


def _put_together(parts: Services, spec: JobSpec, job: Job, progress: Progress) -> JobView:
    return JobView(
        id=job.id,
        status=job.status,
        created_at=utc(job.created_at),
        started_at=None if job.started_at is None else utc(job.started_at),
        finished_at=None if job.finished_at is None else utc(job.finished_at),
        progress=ProgressView(**progress.model_dump(), percent=percent(job.status, progress)),
        input=InputView(**spec.request.model_dump()),
        seed=spec.request.seed or 0,
        metadata=spec.request.metadata,
        plan=plan_view(spec),
        clips=[parts.links.clip(job.id, clip) for clip in job.clips],
        video=None if job.video is None else video_view(spec, job.video),
        error=job.error,
        last_sequence=job.last_sequence,
        links=links_view(parts.settings.public_url, job),
    )


_UNDER_WAY = (JobStatus.QUEUED, JobStatus.RUNNING)


def links_view(public_url: str, job: Job) -> Links:
    """Where to go from a job; what cannot be done now has no link."""
    here = f"{public_url.rstrip('/')}/jobs/{job.id}"
    return Links(
        self=here,
        events=f"{here}/events",
        cancel=None if job.status.terminal else f"{here}/cancel",
        pause=f"{here}/pause" if job.status in _UNDER_WAY else None,
        resume=f"{here}/resume" if job.status is JobStatus.PAUSED else None,
        video=f"{here}/video" if job.status is JobStatus.COMPLETED else None,
        manifest=f"{here}/manifest" if job.status is JobStatus.COMPLETED else None,
        delete=here if job.status.terminal else None,
    )


def percent(status: JobStatus, progress: Progress) -> int:
    """How much of the work is done; sampling and delivering a section count alike."""
    if status is JobStatus.COMPLETED:
        return 100
    sampling = 0.0
    if progress.section == progress.sections_sampled and progress.step and progress.total_steps:
        sampling = progress.step / progress.total_steps
    done = progress.sections_sampled + sampling + progress.sections_completed
    # One more for the finishing of the video, so that 100 means finished.
    return min(99, int(100 * done / (2 * progress.total_sections + 1)))


def etag(view: JobView, links_period: int) -> str:
    """Changes when something a reader would care about does; the ETA alone does not count."""
    state = view.model_dump_json(exclude={"eta_seconds", "clips"})
    return f'W/"{hashlib.sha256(f"{links_period}:{state}".encode()).hexdigest()[:32]}"'


def unchanged(tag: str, if_none_match: str | None) -> bool:
    """Whether a client has what a tag names already (RFC 9110, 13.1.2: a weak comparison)."""
    if if_none_match is None:
        return False
    known = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return "*" in known or tag.removeprefix("W/") in known


def _eta(parts: Services, spec: JobSpec, job: Job, progress: Progress) -> float | None:
    """By what the job itself has measured, else by what all jobs have."""
    if job.status is JobStatus.RUNNING:
        events = read(parts.redis, job.id, after=max(0, job.last_sequence - MEASURED_EVENTS))
        own = eta_seconds(job.status, progress, events, parts.record.now())
        if own is not None:
            return own
    if job.status not in _UNDER_WAY:
        return None
    left = spec.num_sections - progress.sections_sampled
    expected = parts.outlook.of(job.id, spec.request.preset, left, spec.section_cost)
    return None if expected is None else expected.ends
