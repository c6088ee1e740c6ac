"""A worker without a model whose clips really play: each section in a colour of its own."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from framepack.media.clips import encode_clip, join_clips
from service.contract.job import JobSpec, Lane
from service.contract.record import Task
from tests.support.lanes import HandWorker

COLOURS = ((196, 60, 40), (210, 160, 40), (60, 140, 90), (50, 100, 190))


def frames_of(spec: JobSpec, section: int) -> tuple[int, np.ndarray]:
    """The first frame's number and the frames of a section: a bright square wanders on a colour."""
    place = spec.places[section]
    first, last = (36 * place + 1 if place else 0), 36 * place + 37
    height, width = spec.video_size
    frames = np.empty((last - first, height, width, 3), np.uint8)
    frames[:] = COLOURS[place % len(COLOURS)]
    for index, number in enumerate(range(first, last)):
        left = number % (width - 12)
        frames[index, 20:32, left : left + 12] = 250
    return first, frames


class FilmWorker(HandWorker):
    """A `HandWorker` whose clips and videos are real ones."""

    def result(self, task: Task) -> tuple[bytes, dict[str, int]]:
        spec = task.spec
        if task.kind == "decode":
            first, frames = frames_of(spec, task.number)
            clip = encode_clip(frames, first, spec.fps)
            fields = {"first_frame": clip.first_frame, "num_frames": clip.num_frames}
            return clip.data, {**fields, "init_bytes": clip.init_bytes}
        if task.kind == "finish":
            return self._film(task), {"first_frame": 0, "num_frames": spec.num_frames}
        return super().result(task)

    def _film(self, task: Task) -> bytes:
        clips = [a for a in task.artifacts.values() if a.init_bytes is not None]
        clips.sort(key=lambda clip: clip.first_frame or 0)
        bodies = [io.BufferedReader(io.BytesIO(self.storage.get(clip.key))) for clip in clips]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "film.mp4")
            join_clips(bodies, path, task.spec.fps)
            return path.read_bytes()

    def encode(self) -> None:
        """Do what comes before the first section."""
        self.run(Lane.RENDER)

    def section(self) -> None:
        """Sample the next section and deliver its clip."""
        self.run(Lane.RENDER)
        self.run(Lane.DELIVER)
