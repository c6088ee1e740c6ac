"""decode(k): the frames that became final with section k, as one clip.

A clip is a pure function of committed latents: the same on any worker, in any order. What this
process remembers of the windows at the edge of what it has decoded only saves work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from framepack.generation.stitch import SectionDecoder
from framepack.media.clips import encode_clip
from framepack.types import Latents
from service.contract.job import Artifact
from worker.tasks.attempt import Attempt

CONTENT_TYPE = "video/mp4"

REMEMBERED_JOBS = 4
"""Jobs whose open windows are kept: a few windows of pixels each, on the device."""


class Decoders:
    """The section decoders of the jobs this process worked on last."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, SectionDecoder] = OrderedDict()

    def of(self, attempt: Attempt) -> SectionDecoder:
        """The decoder of a job; the same one as for its last section, if it is still there."""
        job_id = attempt.task.job_id
        if job_id not in self._by_job:
            self._by_job[job_id] = SectionDecoder(attempt.models.codec, attempt.plan)
        self._by_job.move_to_end(job_id)
        while len(self._by_job) > REMEMBERED_JOBS:
            self._by_job.popitem(last=False)
        return self._by_job[job_id]

    def forget(self) -> None:
        """Give the memory back."""
        self._by_job.clear()


def run(attempt: Attempt, decoders: Decoders) -> Artifact:
    """Decode what became final with the task's section and store it as a clip."""
    index = attempt.section.index

    def latents_of(frames: Sequence[int]) -> Latents:
        attempt.check()  # asked once a window, so this is how often a cancel is seen
        return attempt.latents_of(frames)

    with attempt.stage("vae"):
        pixels = decoders.of(attempt).decode(index, latents_of)
    attempt.check()
    attempt.reach("decoded")
    with attempt.stage("mp4"):
        clip = encode_clip(pixels.frames, pixels.first_frame, attempt.plan.config.fps)
    stored = attempt.store("mp4", clip.data, CONTENT_TYPE)
    return stored.model_copy(
        update={
            "first_frame": clip.first_frame,
            "num_frames": clip.num_frames,
            "init_bytes": clip.init_bytes,
        }
    )
