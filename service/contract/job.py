"""A job as users and processes see it, and the fold that gives its state from its events.

Three shapes of the same thing:

* `JobRequest`: what a user may set. Validated once, at the gateway.
* `JobSpec`: what was accepted. Written once at submit, never changed: the request with its seed
  resolved, the stored picture, and what the plan decided.
* `Job`: the state. Only the record's Lua transitions decide it; `apply` folds the event stream to
  the same state, and a test asserts that both agree.
"""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import from_json

from framepack.generation.method import (
    MAX_HISTORY_GUIDANCE,
    AttentionPattern,
    NoiseMode,
    Ranking,
)
from framepack.generation.plan import (
    MAX_CFG,
    MAX_GUIDANCE,
    MAX_SECONDS,
    MAX_SEED,
    MAX_STEPS,
    GenerationRequest,
    PromptAt,
)
from framepack.generation.quality import QualityName
from service.contract import events
from service.contract.errors import Problem
from service.contract.webhook import Webhook

SCHEMA_VERSION = 2
"""The newest form of a stored job that this code knows.

1: made from a picture, every step computed. 2: without a picture, or with steps left out, which a
worker that knows only the first form would get wrong, or with metadata or a retention of its own,
at which it would stumble: it leaves such a job to others.
"""
MAX_PROMPT_CHARACTERS = 2000
MAX_LATER_PROMPTS = 20
MAX_TTL_SECONDS = 7 * 24 * 3600
MAX_TIMEOUT_SECONDS = 24 * 3600
MAX_METADATA = 16
MAX_METADATA_CHARACTERS = 512
MIN_RETENTION_SECONDS = 60
MAX_RETENTION_SECONDS = 90 * 24 * 3600
METADATA_KEY = r"^[A-Za-z0-9_.-]{1,64}$"


class JobStatus(StrEnum):
    """Where a job stands. ``cancelling`` lasts until the workers have really stopped."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the state can never change again."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class Lane(StrEnum):
    """The two halves of a job. A worker process serves one."""

    RENDER = "render"
    DELIVER = "deliver"


Priority = Literal["high", "normal", "low"]


def _printable(text: str) -> str:
    """Refuse control characters and lone surrogates; JSON can carry both."""
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        raise ValueError("must not contain control characters or lone surrogates")
    return text


def _composed(text: str) -> str:
    """What looks the same is the same prompt, and the same tokens, however it was typed."""
    return unicodedata.normalize("NFC", text)


Text = Annotated[
    str,
    AfterValidator(_printable),
    AfterValidator(_composed),
    Field(max_length=MAX_PROMPT_CHARACTERS),
]
Prompt = Annotated[
    Text,
    Field(min_length=1, json_schema_extra={"pattern": r"\S"}),
]
"""What the video shows. The gateway refuses one of only spaces; jobs of before may have it."""


class LaterPrompt(BaseModel):
    """A prompt that takes over from the one before.

    Attributes:
        seconds: Where in the video; the section that holds this moment is the first to be told.
        prompt: The text.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)]
    prompt: Prompt


def _from_text(value: Any) -> Any:
    """A form's field is text; there it holds the same JSON."""
    if not isinstance(value, str):
        return value
    try:
        from_json(value)
    except ValueError:
        raise ValueError("must be a JSON list of prompts") from None
    return TypeAdapter(list[LaterPrompt]).validate_json(value)


_LATER_PROMPTS_SCHEMA = {
    "title": "Later Prompts",
    "type": "array",
    "maxItems": MAX_LATER_PROMPTS,
    "items": LaterPrompt.model_json_schema(),
    "default": [],
}
"""Written out: a reference would have to be resolved in every document that shows a request."""


def _object_from_text(value: Any) -> Any:
    """A form's field is text; there it holds the same JSON."""
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError:
        raise ValueError("must be a JSON object") from None


_WEBHOOK_SCHEMA = {"anyOf": [Webhook.model_json_schema(), {"type": "null"}], "default": None}

MetadataKey = Annotated[str, Field(pattern=METADATA_KEY)]
MetadataValue = Annotated[
    str, AfterValidator(_printable), Field(max_length=MAX_METADATA_CHARACTERS)
]

_METADATA_SCHEMA = {
    "title": "Metadata",
    "type": "object",
    "maxProperties": MAX_METADATA,
    "propertyNames": {"pattern": METADATA_KEY},
    "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_CHARACTERS},
    "default": {},
}

OF_THE_JOB = frozenset(
    {"webhook", "priority", "ttl_seconds", "timeout_seconds", "retention_seconds", "metadata"}
)
"""Fields that say nothing about the video."""


class JobRequest(BaseModel):
    """What a user may set; the picture, if there is one, travels beside it.

    Attributes:
        priority: ``low`` waits until nothing else does. Above ``normal`` is only the operator.
        ttl_seconds: The job fails if no worker has begun it by then.
        timeout_seconds: The job fails when workers have spent this long on it.
        retention_seconds: For so long after its end the job and all its files are kept; the
            service's own time if not given.
        metadata: The caller's own words, kept with the job and told again; jobs are found by them.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: Prompt
    preset: Annotated[str, Field(max_length=64)] = "tiny"
    seconds: Annotated[float, Field(ge=0.1, le=MAX_SECONDS)] = 5.0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    order: Annotated[str, Field(max_length=64)] | None = None
    schedule: Annotated[str, Field(max_length=200)] | None = None
    size: Annotated[str, Field(max_length=11)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE)] | None = None
    cfg_scale: Annotated[float, Field(ge=1, le=MAX_CFG)] | None = None
    negative_prompt: Text = ""
    later_prompts: Annotated[
        tuple[LaterPrompt, ...],
        BeforeValidator(_from_text),
        Field(max_length=MAX_LATER_PROMPTS, strict=False),
        WithJsonSchema(_LATER_PROMPTS_SCHEMA),
    ] = ()
    ranking: Ranking = "time"
    history_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    history_noise_mode: NoiseMode = "scaled"
    history_guidance: Annotated[float, Field(ge=1, le=MAX_HISTORY_GUIDANCE)] = 1.0
    attention: AttentionPattern = "full"
    quality: QualityName = "exact"
    priority: Literal["normal", "low"] = "normal"
    ttl_seconds: Annotated[int, Field(ge=1, le=MAX_TTL_SECONDS)] | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_SECONDS)] | None = None
    retention_seconds: (
        Annotated[int, Field(ge=MIN_RETENTION_SECONDS, le=MAX_RETENTION_SECONDS)] | None
    ) = None
    webhook: Annotated[
        Webhook | None,
        BeforeValidator(_object_from_text),
        WithJsonSchema(_WEBHOOK_SCHEMA),
    ] = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        BeforeValidator(_object_from_text),
        Field(max_length=MAX_METADATA),
        WithJsonSchema(_METADATA_SCHEMA),
    ] = {}

    def to_generation(self) -> GenerationRequest:
        """The library's request.

        Raises:
            ValueError: The seed is not resolved yet.
        """
        if self.seed is None:
            raise ValueError("the seed must be resolved before planning")
        later = tuple(PromptAt(each.seconds, each.prompt) for each in self.later_prompts)
        own = self.model_dump(exclude=set(OF_THE_JOB))
        return GenerationRequest(**{**own, "seed": self.seed, "later_prompts": later})


class Artifact(BaseModel):
    """Bytes in the storage that the record vouches for.

    Attributes:
        key: Storage key; carries the fence of the attempt that wrote it, so it is never reused.
        sha256: Of the bytes, lower-case hex.
        size_bytes: Number of bytes.
        content_type: Media type.
        first_frame: For a clip, its first pixel frame in the finished video.
        num_frames: For a clip or a video, its pixel frames.
        init_bytes: For a clip, the length of the shared initialisation at its front.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    sha256: str
    size_bytes: int
    content_type: str
    first_frame: int | None = None
    num_frames: int | None = None
    init_bytes: int | None = None


def _known_fields(stored: Any) -> Any:
    """A stored request without what only a later version knows; users' requests are strict."""
    if not isinstance(stored, dict):
        return stored
    return {name: value for name, value in stored.items() if name in JobRequest.model_fields}


class JobSpec(BaseModel):
    """What was accepted. Written once, never changed.

    Attributes:
        request: With the seed resolved.
        image: The stored picture, decoded and re-encoded by the gateway; None for text-to-video.
        schema_version: The form that a worker must know; the oldest that says all of this.
        image_size: Its (height, width) in pixels.
        order: The sampling order that was chosen; empty in jobs accepted before this was kept.
        schedule: The packing schedule, spelled out in the paper's notation; likewise.
        num_sections: Sections of the video; each lane has one task more.
        places: Of each section, in the order of sampling, which one by time it is, from 0. Empty
            in jobs accepted before this was kept.
        video_size: (height, width) of the video.
        section_cost: Predicted work of one section, in the same unit for all jobs of a preset;
            fair sharing counts it.
        traceparent: Of the request that submitted the job (W3C Trace Context), where it is traced.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    tenant: str
    priority: Priority = "normal"
    request: Annotated[JobRequest, BeforeValidator(_known_fields)]
    image: Artifact | None = None
    schema_version: int = Field(default_factory=lambda known: _oldest_form(known))
    image_size: tuple[int, int] | None = None
    order: str = ""
    schedule: str = ""
    num_sections: Annotated[int, Field(ge=1)]
    places: tuple[int, ...] = ()
    num_frames: int
    fps: int
    video_size: tuple[int, int]
    section_cost: float = 1.0
    traceparent: str = ""

    def for_record(self) -> str:
        """As the record stores it: JSON, without what was not asked for beside the video.

        A worker of an older version may not know such a field, and need not. What decides the
        video is spelled out, so that no later default changes a job that was accepted.
        """
        fields = JobRequest.model_fields
        plain = {name for name in OF_THE_JOB if getattr(self.request, name) == fields[name].default}
        return self.model_dump_json(exclude={"request": plain})


def _oldest_form(known: dict[str, Any]) -> int:
    """The oldest form that can say what was accepted, so that older workers share in the rest."""
    request: JobRequest = known["request"]
    refused = request.metadata or request.retention_seconds is not None
    return 2 if known["image"] is None or request.quality != "exact" or refused else 1


class Progress(BaseModel):
    """How far a job is.

    Attributes:
        sections_sampled: Sections whose latents are committed.
        sections_completed: Sections whose clip is committed.
        total_sections: Sections of the whole video.
        section: The section being sampled now, by order of sampling.
        step: Denoising steps done in it.
        total_steps: Denoising steps of a section.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sections_sampled: int = 0
    sections_completed: int = 0
    total_sections: int = 0
    section: int | None = None
    step: int | None = None
    total_steps: int | None = None


class Clip(BaseModel):
    """The run of frames that became final with one section."""

    model_config = ConfigDict(frozen=True)

    section: int
    artifact: Artifact


class Job(BaseModel):
    """The state of a job. Times are milliseconds since the epoch, on the Redis server's clock."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    status: JobStatus
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    sections_sampled: int = 0
    clips: tuple[Clip, ...] = ()
    video: Artifact | None = None
    error: Problem | None = None
    last_sequence: int = 0


class Event(BaseModel):
    """One entry of a job's event stream.

    Attributes:
        sequence: 1, 2, 3 ... without gaps; the stream entry's id is ``{sequence}-0``.
        type: One of `service.contract.events`.
        at: Milliseconds since the epoch, on the Redis server's clock.
        data: The event's own fields.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    sequence: int
    type: str
    at: int
    data: dict[str, Any] = {}


def apply(job: Job | None, event: Event) -> Job:
    """The state after an event, given the state before it.

    Args:
        job: The state so far; None before the first event.
        event: The next event of the stream.

    Raises:
        ValueError: The first event does not create a job, or a sequence number is missing.
    """
    if job is None:
        if event.type != events.QUEUED or event.sequence != 1:
            raise ValueError(f"{event.type} cannot be a job's first event")
        return Job(id=event.job_id, status=JobStatus.QUEUED, created_at=event.at, last_sequence=1)
    if event.sequence != job.last_sequence + 1:
        raise ValueError(f"event {event.sequence} cannot follow {job.last_sequence}")
    return job.model_copy(update={"last_sequence": event.sequence, **_changes(job, event)})


def _changes(job: Job, event: Event) -> dict[str, Any]:
    data = event.data
    match event.type:
        case events.STARTED:
            return {"status": JobStatus.RUNNING, "started_at": event.at}
        case events.SECTION_SAMPLED:
            return {"sections_sampled": data["section"] + 1}
        case events.SECTION_COMPLETED:
            clip = Clip(section=data["section"], artifact=Artifact(**data["clip"]))
            return {"clips": (*job.clips, clip)}
        case events.RESUMED:
            return {"status": JobStatus(data["status"])}
        case events.COMPLETED:
            return {**_end(event), "video": Artifact(**data["video"])}
        case events.FAILED:
            return {**_end(event), "error": Problem(**data["error"])}
        case events.CANCELLED:
            return _end(event)
        case events.PAUSED | events.CANCELLING:
            return {"status": JobStatus(event.type)}
    return {}


def _end(event: Event) -> dict[str, Any]:
    return {"status": JobStatus(event.type), "finished_at": event.at}
