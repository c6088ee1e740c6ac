"""The types of a job's events, by name, and what each carries (`Event.data`).

| type | data |
|---|---|
| queued | total_sections |
| started | |
| section.started | section, total_sections |
| section.sampled | section |
| section.completed | section, clip (an `Artifact`) |
| retrying | lane, task, reason, crashes, delay_ms |
| paused, cancelling | |
| resumed | status |
| completed | video (an `Artifact`) |
| failed | error (a `Problem`) |
| cancelled | |

Single denoising steps are `StepEvent`s: the latest is a value of the record, they are published to
whoever listens, and never stored. So are `PreviewEvent`s, of which the latest is kept for a minute.
Sections are numbered in the order of sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Base64Bytes, BaseModel, ConfigDict

QUEUED = "queued"
STARTED = "started"
SECTION_STARTED = "section.started"
SECTION_SAMPLED = "section.sampled"
SECTION_COMPLETED = "section.completed"
RETRYING = "retrying"
PAUSED = "paused"
RESUMED = "resumed"
CANCELLING = "cancelling"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"

TERMINAL = frozenset({COMPLETED, FAILED, CANCELLED})


class StepEvent(BaseModel):
    """A denoising step, published and forgotten.

    Attributes:
        section: Being sampled, by order of sampling.
        step: Steps done in it.
        total_steps: Steps of a section.
        total_sections: Sections of the video.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    section: int
    step: int
    total_steps: int
    total_sections: int


@dataclass(frozen=True)
class Picture:
    """A small encoded picture. Sizes in pixels."""

    image: bytes
    width: int
    height: int
    content_type: str


class PreviewEvent(BaseModel):
    """What a section looks like so far, published and forgotten.

    Attributes:
        section: Being sampled, by order of sampling.
        step: Steps done when it looked like this.
        total_steps: Steps of a section.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        content_type: Of the picture.
        image: The picture; base64 in JSON.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    section: int
    step: int
    total_steps: int
    width: int
    height: int
    content_type: str
    image: Base64Bytes
