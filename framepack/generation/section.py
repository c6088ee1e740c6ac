"""Sample one section: the hot loop. It knows no order and no packing schedule, only a `Section`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.generation.conditioning import Conditioning
from framepack.generation.history import History
from framepack.generation.orders import Section
from framepack.generation.samplers import SAMPLERS, Denoise
from framepack.generation.sigmas import shift_exponent, shifted_sigmas
from framepack.generation.stepcache import StepCacheFactory
from framepack.models.base import LevelLatents, PackedModel, StepCache, TextCondition
from framepack.packing.schedule import BASE_KERNEL, Level
from framepack.types import Latents

P = TypeVar("P")


@dataclass(frozen=True)
class SamplingSettings:
    """How a section is sampled.

    Attributes:
        steps: Denoising steps; with cfg_scale other than 1 each evaluates the model twice.
        guidance_scale: Distilled guidance, an embedding.
        cfg_scale: Real classifier-free guidance; 1 evaluates the positive branch alone.
        sampler: Key of `SAMPLERS`.
        first_sigma: First noise level before the shift.
        step_cache: Makes a cache for each branch of each section; None computes every step.
    """

    steps: int = 25
    guidance_scale: float = 10.0
    cfg_scale: float = 1.0
    sampler: str = "unipc_bh1"
    first_sigma: float = 1.0
    step_cache: StepCacheFactory | None = None


@dataclass(frozen=True)
class Step:
    """Progress of a section.

    Attributes:
        index: The denoising step just done, from 0.
        total: Denoising steps of the section.
        estimate: (1, c, w, h, w) current estimate of the section's latents, on the model's device.
    """

    index: int
    total: int
    estimate: Latents


def draw_noise(
    start: Float[Tensor, "1 c 1 h w"], window: int, generator: torch.Generator
) -> Latents:
    """Noise of one section: fp32 from the job's one CPU generator, in the order of sampling."""
    _, channels, _, height, width = start.shape
    return torch.randn(
        (1, channels, window, height, width), generator=generator, dtype=torch.float32
    )


def sample_section(
    model: PackedModel[P],
    conditioning: Conditioning,
    section: Section,
    history: History,
    settings: SamplingSettings,
    generator: torch.Generator,
) -> Generator[Step, None, Latents]:
    """Sample one section, yielding after every denoising step.

    Close the generator to stop. Exhausted, its return value is the section's latents,
    (1, c, window, h, w), fp32 on the CPU.

    Args:
        model: The packed transformer.
        conditioning: Of the job.
        section: What to generate and what to see.
        history: Holds the frames of `frames_needed`; absent ones are zeros.
        settings: How to sample.
        generator: The job's CPU generator; advanced by one section's noise.
    """
    noise = draw_noise(conditioning.start, len(section.frames), generator).to(model.device)
    denoise = _denoiser(model, conditioning, section, history, settings)
    height, width = conditioning.start.shape[-2:]
    tokens = Level(len(section.frames), BASE_KERNEL).tokens(height, width)
    sigmas = shifted_sigmas(settings.steps, shift_exponent(tokens), settings.first_sigma)
    estimate = noise
    for step in SAMPLERS[settings.sampler](denoise, noise, sigmas):
        estimate = step.estimate
        yield Step(step.index, settings.steps, estimate)
    return estimate.to("cpu", torch.float32)


def finish_section(steps: Generator[Step, None, Latents]) -> Latents:
    """Sample to the end without looking at the steps; the section's latents."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            latents: Latents = finished.value
            return latents


def context_levels(section: Section, history: History) -> list[LevelLatents]:
    """What a section sees, as a model gets it; training builds its examples with it too."""
    return [
        LevelLatents(level.kernel, history.frames(level.frames), torch.tensor([level.positions]))
        for level in section.context
    ]


def _denoiser(
    model: PackedModel[P],
    conditioning: Conditioning,
    section: Section,
    history: History,
    settings: SamplingSettings,
) -> Denoise:
    """The model with a section's context as a function of noisy latents and noise level."""
    levels = context_levels(section, history)
    height, width = conditioning.start.shape[-2:]

    def branch(condition: TextCondition) -> tuple[P, StepCache | None]:
        with torch.inference_mode():
            prepared = model.prepare(
                levels,
                torch.tensor([section.positions]),
                (height, width),
                condition,
                settings.guidance_scale,
            )
        make = settings.step_cache
        return prepared, None if make is None else make(settings.steps)

    positive = branch(conditioning.positive_condition(section.prompt))
    negative = branch(conditioning.negative_condition()) if settings.cfg_scale != 1.0 else None

    @torch.inference_mode()
    def denoise(latents: Latents, sigma: Float[Tensor, ""]) -> Latents:
        # Rounded to the model's dtype as the official code does: the data estimate below starts
        # from the rounded latents.
        rounded = latents.to(model.dtype)
        # Left where the sigmas are: a model that keeps what belongs to a timestep need not wait.
        timestep = (sigma * 1000)[None]
        velocity = model.predict(rounded, timestep, *positive)
        if negative is not None:
            away = model.predict(rounded, timestep, *negative)
            velocity = away + settings.cfg_scale * (velocity - away)
        return rounded.float() - sigma.to(model.device) * velocity.float()

    return denoise
