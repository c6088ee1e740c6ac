"""What the data of each event holds on the wire, by the event's name.

`EventView.data` stays a plain object, so that a reader meets an event it does not know without an
error; `typed` gives the model where there is one.
"""

from __future__ import annotations

from service.contract import events
from service.contract.errors import Problem
from service.contract.job import JobStatus, Lane
from service.contract.views import ClipView, EventView, JobView, VideoView, View


class QueuedData(View):
    """The job was accepted."""

    total_sections: int


class SectionStartedData(View):
    """A worker began to sample a section, numbered by the order of sampling."""

    section: int
    total_sections: int


class StepData(View):
    """Denoising steps done in a section; at most twice a second, without an id, not kept."""

    section: int
    step: int
    total_steps: int
    total_sections: int


class PreviewData(View):
    """What a section looks like so far; at most twice a second, without an id, not kept.

    Attributes:
        step: Steps done when it looked like this.
        image: The picture in base64.
    """

    section: int
    step: int
    total_steps: int
    width: int
    height: int
    content_type: str
    image: str


class SectionSampledData(View):
    """A section's latents are committed; its clip is yet to come."""

    section: int


class SectionCompletedData(View):
    """Frames became final: they can be played now."""

    section: int
    clip: ClipView


class RetryingData(View):
    """An attempt at a task was lost; it is made again after a pause."""

    lane: Lane
    task: int
    reason: str
    crashes: int
    delay_ms: int


class ResumedData(View):
    """A paused job goes on."""

    status: JobStatus


class CompletedData(View):
    """The video is finished."""

    video: VideoView


class FailedData(View):
    """The job ended without a video."""

    error: Problem


class NoData(View):
    """Nothing but the event itself."""


EVENT_DATA: dict[str, type[View]] = {
    "snapshot": JobView,
    events.QUEUED: QueuedData,
    events.STARTED: NoData,
    events.SECTION_STARTED: SectionStartedData,
    "step": StepData,
    "preview": PreviewData,
    events.SECTION_SAMPLED: SectionSampledData,
    events.SECTION_COMPLETED: SectionCompletedData,
    events.RETRYING: RetryingData,
    events.PAUSED: NoData,
    events.RESUMED: ResumedData,
    events.CANCELLING: NoData,
    events.COMPLETED: CompletedData,
    events.FAILED: FailedData,
    events.CANCELLED: NoData,
}


def typed(event: EventView) -> View | None:
    """An event's data as its model; None for an event this version does not know.

    Raises:
        pydantic.ValidationError: The data is not what this version knows.
    """
    model = EVENT_DATA.get(event.type)
    return None if model is None else model.model_validate(event.data)
