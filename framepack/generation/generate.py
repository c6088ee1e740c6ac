"""The whole video in one process, as a generator of what happened.

The loop is the service's, without the service: encode once, then sample and deliver section by
section. Memory does not grow with the video: latents are forgotten once nothing will read them,
and finished clips lie in a temporary folder beside the output until they are joined.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from framepack.drift.codebook import Codebook
from framepack.errors import InvalidRequest
from framepack.generation.conditioning import Conditioning
from framepack.generation.encode import Encoders, encode
from framepack.generation.history import History, frames_needed
from framepack.generation.plan import Plan
from framepack.generation.restart import restarted
from framepack.generation.section import SamplingSettings, Step, sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stepcache import StepCacheFactory
from framepack.generation.stitch import SectionDecoder
from framepack.media.clips import Clip, encode_clip, join_clips
from framepack.models.base import PackedModel
from framepack.models.codec import SectionCodec
from framepack.types import Latents


@runtime_checkable
class Engine(Protocol):
    """The models a video needs; `framepack.presets.Models` is one."""

    @property
    def encoders(self) -> Encoders:
        """Prompt and picture to conditioning."""
        ...

    @property
    def transformer(self) -> PackedModel[Any]:
        """The packed transformer."""
        ...

    @property
    def codec(self) -> SectionCodec:
        """Latents to pixels."""
        ...

    @property
    def codebook(self) -> Codebook | None:
        """Of discretised history; None where there is none."""
        ...

    def step_cache(self, quality: str) -> StepCacheFactory | None:
        """What a quality skips with; None where every step is computed."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Prompt and picture are encoded."""

    conditioning: Conditioning


@dataclass(frozen=True)
class Stepped:
    """A denoising step of a section is done."""

    section: int
    step: Step


@dataclass(frozen=True)
class Sampled:
    """A section's latents are made."""

    section: int


@dataclass(frozen=True)
class Delivered:
    """The frames that became final with a section are encoded; None if there were none."""

    section: int
    clip: Clip | None


@dataclass(frozen=True)
class Finished:
    """The video is complete."""

    path: Path
    num_frames: int


Progress = Encoded | Stepped | Sampled | Delivered | Finished


def sampling_settings(
    plan: Plan, step_cache: StepCacheFactory | None = None, codebook: Codebook | None = None
) -> SamplingSettings:
    """How a plan's sections are sampled, see `SamplingSettings`.

    Raises:
        InvalidRequest: The plan discretises history and there is no codebook.
    """
    if plan.history.discretised and codebook is None:
        raise InvalidRequest(
            "schedule",
            f"{plan.schedule} discretises history (+D), but preset {plan.request.preset} has no "
            "codebook: fit one with `framepack codebook fit`, or leave out +D",
        )
    return SamplingSettings(
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        cfg_scale=plan.cfg_scale,
        sampler=plan.config.sampler,
        first_sigma=plan.config.first_sigma,
        step_cache=step_cache,
        history=plan.history,
        codebook=codebook if plan.history.discretised else None,
    )


def generate(
    engine: Engine,
    plan: Plan,
    image: UInt8[np.ndarray, "h w 3"] | None,
    output: Path,
    delivery: str = "aligned",
    step_cache: StepCacheFactory | None = None,
) -> Generator[Progress, None, None]:
    """Make a whole video, reporting each thing as it is done; close the iterator to cancel.

    The same request, picture, seed and engine fingerprint give the same bytes.

    Args:
        engine: The models.
        plan: What to make.
        image: RGB start picture of any size; None where the plan has none.
        output: The mp4; appears only when complete.
        delivery: ``aligned`` or ``official``, see `framepack.generation.stitch`.
        step_cache: Skips part of the denoising work, see `framepack.generation.stepcache`;
            default: what the request's quality says.

    Raises:
        InvalidRequest: The delivery does not exist or does not fit the plan's order, or history is
            to be discretised without a codebook.
        MediaError: The video cannot be encoded.
        WeightsError: A model cannot be loaded.
    """
    decoder = SectionDecoder(engine.codec, plan, delivery)
    skipping = step_cache or engine.step_cache(plan.request.quality)
    settings = sampling_settings(plan, skipping, engine.codebook)
    conditioning = encode(engine.encoders, plan, image)
    yield Encoded(conditioning)
    history = History(conditioning.start)
    last_use = _last_use(plan, decoder)
    generator = noise_generator(plan.request.seed)
    clips: list[tuple[int, Path]] = []
    with tempfile.TemporaryDirectory(prefix=".framepack-", dir=output.parent) as folder:
        for section in plan.sections:
            seen = restarted(section, history, engine.codec, plan.request.seed)
            steps = sample_section(
                engine.transformer, conditioning, section, seen, settings, generator
            )
            history.add(section.frames, (yield from _reported(section.index, steps)))
            yield Sampled(section.index)
            clip = _delivered(decoder, section.index, history, plan.config.fps)
            if clip is not None:
                path = Path(folder, f"{clip.first_frame}.mp4")
                path.write_bytes(clip.data)
                clips.append((clip.first_frame, path))
            yield Delivered(section.index, clip)
            history.keep(n for n, last in last_use.items() if last > section.index)
        paths = (path for _, path in sorted(clips))
        yield Finished(output, join_clips(paths, output, plan.config.fps))


def _reported(
    section: int, steps: Generator[Step, None, Latents]
) -> Generator[Progress, None, Latents]:
    """A section's steps as progress; returns its latents. Closing it closes the sampling."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                latents: Latents = finished.value
                return latents
            yield Stepped(section, step)


def _delivered(decoder: SectionDecoder, index: int, history: History, fps: int) -> Clip | None:
    run = decoder.decode(index, history.frames)
    return encode_clip(run.frames, run.first_frame, fps) if len(run.frames) else None


def _last_use(plan: Plan, decoder: SectionDecoder) -> dict[int, int]:
    """The last section (by sampling index) that reads each latent frame, to sample or to decode."""
    last: dict[int, int] = {}
    for section in plan.sections:
        for frame in (*frames_needed(section), *decoder.latent_frames_needed(section.index)):
            last[frame] = section.index
    return last
