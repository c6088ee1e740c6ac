"""Sample one section: the hot loop. It knows no order and no packing schedule, only a `Section`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.drift.codebook import Codebook
from framepack.generation.conditioning import Conditioning
from framepack.generation.context import CleanContext, Context, NoisyContext, context_levels
from framepack.generation.history import History
from framepack.generation.method import CAUSAL_BLOCK, CLEAN_HISTORY, HistoryMethod
from framepack.generation.orders import Section
from framepack.generation.ranked import ranked_section
from framepack.generation.samplers import SAMPLERS, Denoise
from framepack.generation.sigmas import shift_exponent, shifted_sigmas
from framepack.generation.stepcache import StepCacheFactory
from framepack.models.base import Anticipating, PackedModel, StepCache, TextCondition
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
        history: How history is chosen and changed before the model sees it.
        codebook: Of discretised history; None leaves it as it is.
    """

    steps: int = 25
    guidance_scale: float = 10.0
    cfg_scale: float = 1.0
    sampler: str = "unipc_bh1"
    first_sigma: float = 1.0
    step_cache: StepCacheFactory | None = None
    history: HistoryMethod = CLEAN_HISTORY
    codebook: Codebook | None = None


@dataclass(frozen=True)
class Step:
    """Progress of a section.

    Attributes:
        index: The denoising step just done, from 0.
        total: Denoising steps of the section.
        estimate: (1, c, w, h, w) current estimate of the section's latents, on the model's device.
        skipped: Evaluations of the model that a step cache has left out so far, all branches
            counted.
    """

    index: int
    total: int
    estimate: Latents
    skipped: int = 0


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
        generator: The job's CPU generator; advanced by one section's noise, and by that of the
            history if it has any.
    """
    noise = draw_noise(conditioning.start, len(section.frames), generator).to(model.device)
    sampling = _Sampling(model, conditioning, settings)
    section = sampling.seen(section, history, noise)
    context, absent = sampling.contexts(section, history, generator)
    denoise = sampling.denoiser(section, context, absent)
    estimate = noise
    for step in SAMPLERS[settings.sampler](denoise, noise, sampling.sigmas(section)):
        estimate = step.estimate
        skipped = sum(cache.skipped for cache in sampling.caches)
        yield Step(step.index, settings.steps, estimate, skipped)
    return estimate.to("cpu", torch.float32)


def finish_section(steps: Generator[Step, None, Latents]) -> Latents:
    """Sample to the end without looking at the steps; the section's latents."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            latents: Latents = finished.value
            return latents


@dataclass(frozen=True)
class _Branch(Generic[P]):
    """One evaluation of the model in every step: one condition, one view of history.

    Attributes:
        model: The packed transformer.
        prepared: What the steps share, given the target's noise level.
        cache: For this branch alone.
    """

    model: PackedModel[P]
    prepared: Callable[[Float[Tensor, ""]], P]
    cache: StepCache | None

    def velocity(self, rounded: Latents, sigma: Float[Tensor, ""]) -> Latents:
        """The model's answer to noisy latents in its dtype."""
        # Left where the sigmas are: a model that keeps what belongs to a timestep need not wait.
        timestep = (sigma * 1000)[None]
        return self.model.predict(rounded, timestep, self.prepared(sigma), self.cache)


@dataclass(frozen=True)
class _Sampling(Generic[P]):
    """What sampling one section is given, see `sample_section`."""

    model: PackedModel[P]
    conditioning: Conditioning
    settings: SamplingSettings
    caches: list[StepCache] = field(default_factory=list)

    def sigmas(self, section: Section) -> Float[Tensor, " n"]:
        """Noise levels of the steps."""
        height, width = self.conditioning.start.shape[-2:]
        tokens = Level(len(section.frames), BASE_KERNEL).tokens(height, width)
        settings = self.settings
        return shifted_sigmas(settings.steps, shift_exponent(tokens), settings.first_sigma)

    def seen(self, section: Section, history: History, noise: Latents) -> Section:
        """The section with its packs filled by importance; as it is where time alone counts."""
        if not section.candidates:
            return section
        by_time = CleanContext(context_levels(section, history, self.settings.codebook))
        condition = self.conditioning.positive_condition(section.prompt)
        uncached = replace(self, settings=replace(self.settings, step_cache=None))
        branch = uncached.branch(section, condition, by_time)
        rounded, sigma = noise.to(self.model.dtype), self.sigmas(section)[0]
        with torch.inference_mode():
            estimate = _clean(rounded, sigma, branch.velocity(rounded, sigma))
        return ranked_section(section, history, self.settings.history, estimate.cpu())

    def contexts(
        self, section: Section, history: History, generator: torch.Generator
    ) -> tuple[Context, Context | None]:
        """What the model sees, and what it sees where history guidance wants to get away from.

        The latter is history drowned in noise for a model that knows noisy history, else history
        that is absent but for the start picture, which every packed model knows from first
        sections.
        """
        method, codebook = self.settings.history, self.settings.codebook
        levels = context_levels(section, history, codebook)
        if method.noise > 0:
            noisy = NoisyContext(levels, method.noise_mode, method.noise, generator)
            return noisy, noisy.drowned() if method.guidance != 1.0 else None
        if method.guidance == 1.0:
            return CleanContext(levels), None
        absent = context_levels(section, History(history.frames([0])), codebook)
        return CleanContext(levels), CleanContext(absent)

    def branch(self, section: Section, condition: TextCondition, context: Context) -> _Branch[P]:
        """The model with a condition and a view of history."""
        height, width = self.conditioning.start.shape[-2:]
        model, settings = self.model, self.settings

        def prepare(target_level: float) -> P:
            with torch.inference_mode():
                return model.prepare(
                    context.at(target_level),
                    torch.tensor([section.positions]),
                    (height, width),
                    condition,
                    settings.guidance_scale,
                    CAUSAL_BLOCK if settings.history.attention == "causal" else None,
                )

        make = settings.step_cache
        cache = None if make is None else make(settings.steps)
        if cache is not None:
            self.caches.append(cache)
        if not context.steady:
            return _Branch(model, lambda sigma: prepare(float(sigma)), cache)
        always = prepare(1.0)
        if isinstance(model, Anticipating):
            with torch.inference_mode():
                model.anticipate(self.sigmas(section)[:-1] * 1000, always)
        return _Branch(model, lambda sigma: always, cache)

    def denoiser(self, section: Section, context: Context, absent: Context | None) -> Denoise:
        """The model's estimate of the clean section, guidance included."""
        settings, model = self.settings, self.model
        condition = self.conditioning.positive_condition(section.prompt)
        positive = self.branch(section, condition, context)
        negative = forgetful = None
        if settings.cfg_scale != 1.0:
            negative = self.branch(section, self.conditioning.negative_condition(), context)
        if absent is not None:
            forgetful = self.branch(section, condition, absent)

        @torch.inference_mode()
        def denoise(latents: Latents, sigma: Float[Tensor, ""]) -> Latents:
            # Rounded to the model's dtype as the official code does: the data estimate starts from
            # the rounded latents.
            rounded = latents.to(model.dtype)
            velocity = told = positive.velocity(rounded, sigma)
            if negative is not None:
                away = negative.velocity(rounded, sigma)
                velocity = away + settings.cfg_scale * (velocity - away)
            if forgetful is not None:
                apart = told - forgetful.velocity(rounded, sigma)
                velocity = velocity + (settings.history.guidance - 1.0) * apart
            return _clean(rounded, sigma, velocity)

        return denoise


def _clean(rounded: Latents, sigma: Float[Tensor, ""], velocity: Latents) -> Latents:
    """The clean latents, if the velocity is right."""
    return rounded.float() - sigma.to(rounded.device) * velocity.float()
