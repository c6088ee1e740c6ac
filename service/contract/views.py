"""The JSON that leaves the gateway, typed once for the gateway that writes and clients that read.

Times are UTC (RFC 3339), sizes bytes, durations seconds. New fields may appear: readers ignore what
they do not know.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.errors import Problem
from service.contract.job import JobRequest, JobStatus, Progress
from service.contract.spent import JobMetrics


class View(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FieldError(View):
    """What is wrong with one field.

    Attributes:
        pointer: JSON pointer into the request, as a URI fragment: ``#/seconds``.
        detail: One sentence; never the value.
    """

    pointer: str
    detail: str


class ProblemView(View):
    """A problem document (RFC 9457), the body of every answer that is an error.

    Attributes:
        type: URI reference that answers with the meaning of the code.
        title: The same for every occurrence of a code.
        status: The HTTP status.
        detail: One sentence about this occurrence and the way out.
        code: Stable and machine-readable.
        retryable: Whether the same request may succeed later.
        request_id: The answer's X-Request-Id, under which the service logs.
        errors: For invalid requests, which fields are wrong.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool = False
    request_id: str | None = None
    errors: list[FieldError] | None = None


class CheckView(View):
    """Something the gateway needs; if it is away, how that shows."""

    ok: bool
    fault: str | None = None


class ReadinessView(View):
    """Whether jobs can be accepted now."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, CheckView]


class ProblemKindView(View):
    """What a problem's code means.

    Attributes:
        status: Of answers with this code; null for a code that only a failed job's `error` has.
        meaning: What happened and the way out, where the title does not say enough.
    """

    code: str
    title: str
    status: int | None
    retryable: bool
    meaning: str | None = None


class ProblemKindsView(View):
    """All codes."""

    object: Literal["list"] = "list"
    data: list[ProblemKindView]


class ProgressView(Progress):
    """How far a job is. ``percent`` counts sampling and delivery; 100 only when completed."""

    percent: Annotated[int, Field(ge=0, le=100)]


class PlanView(View):
    """What was decided at the start; sections are whole, so rarely exactly what was asked for.

    Attributes:
        places: Of each section, in the order of sampling, which one by time it is, from 0.
        order: The sampling order, where the request named none the default; ``schedule`` likewise,
            spelled out in the paper's notation, +D included.
    """

    order: str = ""
    schedule: str = ""
    num_sections: int
    places: list[int] = []
    num_frames: int
    fps: int
    width: int
    height: int
    duration_seconds: float


class ClipView(View):
    """The frames that became final with one section: a self-contained fragmented mp4.

    Attributes:
        section: Number of the section in the order of sampling, from 0.
        first_frame: Its first frame in the finished video.
        num_frames: Its frames.
        url: Plays without credentials until `expires_at`.
        init_bytes: Length of the initialisation at its front, which all clips of a job share.
    """

    section: int
    first_frame: int
    num_frames: int
    url: str
    expires_at: datetime
    content_type: str
    size_bytes: int
    sha256: str
    init_bytes: int | None = None


class VideoView(View):
    """The finished video."""

    content_type: str
    size_bytes: int
    sha256: str
    num_frames: int
    fps: int
    width: int
    height: int
    duration_seconds: float


class VideoLink(VideoView):
    """The finished video and where to get it: ``url`` needs no credentials until it expires."""

    url: str
    expires_at: datetime


class TokenView(View):
    """A token to look at one job, for what cannot send a key in a header.

    Attributes:
        token: For the query (`?token=`) of the job's events, preview, playlist and clips.
        expires_at: A stream that has begun goes on; a film player needs it until it has all.
        events: URL for a browser's EventSource.
        playlist: URL for a film player that knows HLS.
    """

    token: str
    expires_at: datetime
    events: str
    playlist: str


class Links(View):
    """Where to go from a job. What cannot be done now has no link."""

    self: str
    events: str
    cancel: str | None = None
    pause: str | None = None
    resume: str | None = None
    video: str | None = None
    manifest: str | None = None
    delete: str | None = None


class InputView(JobRequest):
    """The request as accepted. Unlike a request, it may hold fields a reader does not know."""

    model_config = ConfigDict(extra="ignore", strict=False, frozen=True)


class JobView(View):
    """A job, as every endpoint that answers with one shows it.

    Attributes:
        status: queued, running, paused, cancelling; then for good completed, failed or cancelled.
        expires_at: When an ended job goes, with its files.
        queue_position: While queued, how many places from the front; 1 is next.
        eta_seconds: Until the video is finished: by this job's own steps once it has made some,
            before by the pace of sections here and the turns of all jobs. Null as long as nothing
            was measured or no worker serves the preset.
        input: The request as accepted; null took the preset's default.
        seed: The seed in use, drawn by the service when the request had none.
        metadata: The caller's own, as in the request.
        metrics: What it took so far.
        clips: In the order of sampling.
        error: Why the job failed.
        last_sequence: Number of the last event this state includes.
    """

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    queue_position: int | None = None
    progress: ProgressView
    eta_seconds: float | None = None
    input: InputView
    seed: int
    metadata: dict[str, str] = {}
    plan: PlanView
    metrics: JobMetrics = JobMetrics()
    clips: list[ClipView] = []
    video: VideoView | None = None
    error: Problem | None = None
    last_sequence: int
    links: Links


class EstimateView(View):
    """What a job would cost and find before it.

    Attributes:
        gpu_seconds: Sampling it, on one worker of this service.
        backlog_gpu_seconds: What one such worker would need for all open jobs of the preset.
            Workers share it, and a tenant with little of it need not wait for all of it.
        wait_seconds: Until a worker would begin it, if nothing else arrives: by the turns of all
            jobs and the workers that serve the preset, or one if there is none now.
        eta_seconds: Until its video would be finished, likewise.
        measured: Whether sections of the preset were timed here; else it is one H100's pace.
    """

    gpu_seconds: float
    backlog_gpu_seconds: float
    wait_seconds: float
    eta_seconds: float
    measured: bool


class DryRunView(View):
    """What would come of a submission. Nothing was stored.

    Attributes:
        input: The request; null would take the preset's default, a null seed would be drawn.
    """

    object: Literal["dry_run"] = "dry_run"
    input: InputView
    plan: PlanView
    estimate: EstimateView


class JobListView(View):
    """Some of a tenant's jobs.

    Attributes:
        next: The `after` of the next page; null on the last. A page may be short and not the last.
    """

    object: Literal["list"] = "list"
    data: list[JobView]
    next: str | None = None


class EventView(View):
    """The data of one server-sent event.

    Attributes:
        sequence: The event's id, 1, 2, 3 ... without gaps; null for a step, which is not kept.
        type: The event's name.
        data: The event's own fields; of a snapshot, the whole job.
    """

    job_id: str
    sequence: int | None = None
    type: str
    at: datetime | None = None
    data: dict[str, Any] = {}


def utc(milliseconds: int) -> datetime:
    """A record's time (milliseconds since the epoch) as the API shows it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
