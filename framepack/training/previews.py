"""Videos of held-out clips' first frames, or of pictures of your own, made while a run goes on.

What a video is conditioned on lies in the cache, so no encoder is loaded for it; only the codec is.
They are made with the averaged weights, by the functions of generation, from fixed seeds: from one
preview to the next only the weights change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from framepack.errors import InvalidRequest
from framepack.generation.conditioning import Conditioning, Prompt
from framepack.generation.generate import sampling_settings
from framepack.generation.plan import GenerationRequest, Plan, plan_generation
from framepack.generation.sections import make_frames
from framepack.media.clips import encode_clip
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.presets import Models
from framepack.training.cache import CachedClip
from framepack.training.observers import Figures, Observed
from framepack.training.transformer import TransformerRun

Video = UInt8[np.ndarray, "t h w 3"]

SHEET_FRAMES = 8
"""Of each video on the contact sheet, evenly spaced."""


@dataclass(frozen=True)
class PreviewSettings:
    """Which videos, how often.

    Attributes:
        every: Steps between previews.
        clips: How many of the held-out clips, or of the prompts.
        prompts: JSONL file of pictures and prompts to take instead of held-out clips, see
            `framepack.training.pictures`.
        sections: Of each video.
        order: Of its sections; the preset's if None.
        schedule: Packing schedule; the order's own if None.
        steps: Denoising steps; the preset's if None.
    """

    every: int
    clips: int = 4
    prompts: str | None = None
    sections: int = 2
    order: str | None = None
    schedule: str | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("every", "clips", "sections"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"previews.{name}", "must be at least 1")


class Previews:
    """An observer that makes them: mp4 files and a contact sheet in ``previews/STEP/``."""

    def __init__(
        self, settings: PreviewSettings, models: Models, clips: Sequence[CachedClip]
    ) -> None:
        """Plan the videos.

        Args:
            settings: Which.
            models: Asked for the codec.
            clips: To make videos of; only their beginnings are looked at.

        Raises:
            InvalidRequest: Order, schedule or steps cannot be served.
        """
        self._settings, self._models = settings, models
        self._clips = clips[: settings.clips]
        self._plans = [self._plan(clip, seed) for seed, clip in enumerate(self._clips)]

    def stepped(self, run: Observed, loss: float) -> None:
        """See `framepack.training.observers.Observer`."""
        if run.step % self._settings.every or not isinstance(run, TransformerRun):
            return
        folder = run.folder / "previews" / f"{run.step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        with run.averaged() as model:
            videos = [self._video(model, n) for n in range(len(self._clips))]
        fps = self._models.preset.config.fps
        for number, frames in enumerate(videos):
            (folder / f"{number:02d}.mp4").write_bytes(encode_clip(frames, 0, fps).data)
        captions = "".join(f"{n:02d} {clip.caption}\n" for n, clip in enumerate(self._clips))
        (folder / "captions.txt").write_text(captions, encoding="utf-8")
        Image.fromarray(contact_sheet(videos)).save(folder / "sheet.png")

    def reported(self, run: Observed, figures: Figures) -> None:
        """See `framepack.training.observers.Observer`."""

    def _plan(self, clip: CachedClip, seed: int) -> Plan:
        config = self._models.preset.config
        frames = self._settings.sections * config.window * config.temporal_compression
        request = GenerationRequest(
            prompt=clip.caption,
            preset=self._models.preset.name,
            seconds=frames / config.fps,
            steps=self._settings.steps,
            seed=seed,
            order=self._settings.order,
            schedule=self._settings.schedule,
        )
        height, width = clip.start.shape[-2:]
        scale = config.spatial_compression
        return plan_generation(request, (height * scale, width * scale))

    def _video(self, model: PackedHunyuanVideo, number: int) -> Video:
        clip, plan = self._clips[number], self._plans[number]
        prompt = Prompt(text=clip.prompt.text, pooled=clip.prompt.pooled)
        conditioning = Conditioning((prompt,), None, clip.image, clip.start)
        settings = sampling_settings(plan)
        return make_frames(model, self._models.codec, plan, conditioning, settings)


def contact_sheet(videos: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A row of frames for each video; smaller ones are padded with white."""
    rows = []
    for frames in videos:
        chosen = np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int)
        rows.append(np.concatenate(list(frames[chosen]), axis=1))
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows
    ]
    return np.concatenate(padded)
