"""finish: all clips, in the order of time, become one mp4, without encoding again.

Memory does not grow with the video: one clip at a time is on the disk beside the result. The video
exists for others when the record names it, and it is named after it is uploaded whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from framepack.errors import MediaError
from framepack.media.clips import join_clips
from service.contract.job import Artifact
from service.contract.manifest import manifest_key
from worker.artifacts import new_key
from worker.manifest import manifest_of
from worker.tasks.attempt import Attempt
from worker.tasks.decode import CONTENT_TYPE

MANIFEST_TYPE = "application/json"


def run(attempt: Attempt) -> Artifact:
    """Join the committed clips and store the video."""
    plan = attempt.plan
    with tempfile.TemporaryDirectory(prefix="framepack-finish-") as folder:
        video = Path(folder, "video.mp4")
        with attempt.stage("mux"):
            num_frames = join_clips(_fetched(attempt, Path(folder)), video, plan.config.fps)
        if num_frames != plan.num_pixel_frames:
            raise MediaError(f"the clips hold {num_frames} of {plan.num_pixel_frames} frames")
        attempt.reach("joined")
        with attempt.stage("upload"):
            stored = attempt.tools.artifacts.store_file(
                new_key(attempt.task, "mp4"), video, CONTENT_TYPE, attempt.check
            )
    finished = stored.model_copy(update={"first_frame": 0, "num_frames": num_frames})
    # Before the record names the video, so that whoever sees the video finds its manifest.
    tools = attempt.tools
    tools.artifacts.store(
        manifest_key(finished), manifest_of(attempt, finished), MANIFEST_TYPE, attempt.check
    )
    return finished


def _fetched(attempt: Attempt, folder: Path) -> Iterator[Path]:
    """Each clip as a file that is there until the next one is asked for."""
    path = folder / "clip.mp4"
    for clip in attempt.clips():
        attempt.tools.artifacts.fetch(clip, path, attempt.check)
        yield path
