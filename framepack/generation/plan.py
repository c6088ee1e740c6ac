"""All that is decided before the first step (torch-free, so that a gateway can decide it too).

`plan_generation` turns a request into a `Plan`, or says which field cannot be served. Everything
that runs later, in one process or in many, reads the plan and decides nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from framepack.errors import InvalidRequest
from framepack.generation.method import (
    CLEAN_HISTORY,
    AttentionPattern,
    HistoryMethod,
    NoiseMode,
    Ranking,
)
from framepack.generation.orders import (
    ORDERS,
    TEXT_ORDER,
    Order,
    Section,
    with_candidates,
    without_picture,
)
from framepack.generation.quality import QUALITIES, QualityName
from framepack.media.buckets import OFFICIAL_BUCKETS, Size, nearest_bucket, parse_size
from framepack.packing.families import FamilyOptions, fitted_schedule
from framepack.packing.schedule import PackingSchedule, has_projection, parse_schedule

_T = TypeVar("_T")

MAX_SECONDS = 120.0
MAX_STEPS = 100
MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 32.0
MAX_CFG = 20.0


@dataclass(frozen=True)
class GenerationConfig:
    """What belongs to a preset's method and is no user's choice, with the defaults for what is.

    Attributes:
        window: Latent frames a section makes.
        fps: Frames per second of the video.
        temporal_compression: Pixel frames per latent frame after the first.
        spatial_compression: Pixels per latent pixel, each way.
        buckets: Video sizes (height, width) in pixels.
        shape: (height, width) of which a video without a picture has the nearest size.
        order: Default sampling order.
        steps: Default number of denoising steps.
        guidance_scale: Default distilled guidance; None where the model has no such embedding.
        cfg_scale: Default classifier-free guidance; 1 is none.
        sampler: Key of `framepack.generation.samplers.SAMPLERS`.
        first_sigma: First noise level before the shift.
        start_noise: Noise level, drawn from this range, at which the start picture's latent is
            shown; None shows it clean.
        sections_apart: Each section is a clip of its own to the codec: its first latent frame is
            one pixel frame, and the start picture is not shown.
        causal: The base model can attend block by block.
        codebook: The weights that come with the preset hold one, so history can be discretised.
        skips: Step caches are fitted to the base model.
    """

    window: int = 9
    fps: int = 30
    temporal_compression: int = 4
    spatial_compression: int = 8
    buckets: tuple[Size, ...] = OFFICIAL_BUCKETS
    shape: Size = (480, 832)
    order: str = "inverted"
    steps: int = 25
    guidance_scale: float | None = 10.0
    cfg_scale: float = 1.0
    sampler: str = "unipc_bh1"
    first_sigma: float = 1.0
    start_noise: tuple[float, float] | None = None
    sections_apart: bool = False
    causal: bool = True
    codebook: bool = False
    skips: bool = True

    @property
    def section_frames(self) -> int:
        """Pixel frames that a section adds to the video."""
        latent_frames = self.window - 1 if self.sections_apart else self.window
        return self.temporal_compression * latent_frames + self.sections_apart


HELIOS = GenerationConfig(
    fps=24,
    buckets=((384, 640), (496, 496), (640, 384)),
    shape=(384, 640),
    order="forward",
    steps=50,
    guidance_scale=None,
    cfg_scale=5.0,
    sampler="unipc_flow",
    first_sigma=0.999,
    start_noise=(0.111, 0.135),
    sections_apart=True,
    causal=False,
    skips=False,
)
"""Helios-Base as its diffusers pipeline runs it by default.

It was trained at 384 x 640; the other sizes have as many tokens."""


_TINY_BUCKETS = ((48, 80), (64, 64), (80, 48))

GENERATION_CONFIGS: dict[str, GenerationConfig] = {
    "framepack-i2v": GenerationConfig(order="inverted"),
    "framepack-f1": GenerationConfig(order="forward"),
    "helios-base": HELIOS,
    "tiny": GenerationConfig(buckets=_TINY_BUCKETS, shape=(64, 64), steps=16, codebook=True),
    "tiny-wan": replace(HELIOS, buckets=_TINY_BUCKETS, shape=(64, 64), steps=8),
}
"""By preset name. How each preset's weights are found and loaded is `framepack.presets`."""


@dataclass(frozen=True)
class PromptAt:
    """A prompt that takes over from the one before.

    Attributes:
        seconds: Where in the video. The section that holds this moment is the first to be told.
        prompt: The text.
    """

    seconds: float
    prompt: str


@dataclass(frozen=True)
class GenerationRequest:
    """What a user asks for; ``None`` takes the preset's default.

    ``prompt`` starts the video; ``later_prompts`` take over one after the other. ``schedule`` is a
    name in the paper's notation or a family's (`framepack.packing.families`). ``size`` is
    ``WIDTHxHEIGHT``; the video takes the preset's size of the nearest shape, the picture's shape if
    it is left out. The fields of history are those of `HistoryMethod`; ``quality`` is a
    key of `framepack.generation.quality.QUALITIES`.
    """

    prompt: str
    preset: str = "tiny"
    seconds: float = 5.0
    steps: int | None = None
    seed: int = 31337
    order: str | None = None
    schedule: str | None = None
    size: str | None = None
    guidance_scale: float | None = None
    cfg_scale: float | None = None
    negative_prompt: str = ""
    later_prompts: tuple[PromptAt, ...] = ()
    ranking: Ranking = "time"
    history_noise: float = 0.0
    history_noise_mode: NoiseMode = "scaled"
    history_guidance: float = 1.0
    attention: AttentionPattern = "full"
    quality: QualityName = "exact"


@dataclass(frozen=True)
class Plan:
    """A request with every choice made.

    Attributes:
        height: Pixel height of the video; ``width`` likewise.
        sections: In the order of sampling.
        request: The request this came from.
        config: The preset's configuration.
        schedule: The parsed packing schedule.
        order: Name of the sampling order.
        history: How history is chosen and changed.
        pictured: Whether the video begins with a start picture; text-to-video does not.
    """

    request: GenerationRequest
    config: GenerationConfig
    order: str
    schedule: PackingSchedule
    height: int
    width: int
    steps: int
    guidance_scale: float
    sections: tuple[Section, ...] = field(repr=False)
    history: HistoryMethod = CLEAN_HISTORY
    pictured: bool = True

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, as `Section.prompt` counts them."""
        return self.request.prompt, *(later.prompt for later in self.request.later_prompts)

    @property
    def places(self) -> tuple[int, ...]:
        """Of each section, in the order of sampling, which one by time it is, from 0."""
        return tuple(section.frames[0] // self.config.window for section in self.sections)

    @property
    def cfg_scale(self) -> float:
        """Classifier-free guidance; 1 is none."""
        asked = self.request.cfg_scale
        return self.config.cfg_scale if asked is None else asked

    @property
    def num_latent_frames(self) -> int:
        """Latent frame numbers of the whole video, the start picture's, 0, always counted."""
        return self.config.window * len(self.sections) + 1

    @property
    def shown_latents(self) -> range:
        """Latent frame numbers that are decoded; the first of them becomes one pixel frame."""
        absent = self.config.sections_apart or not self.pictured
        return range(1 if absent else 0, self.num_latent_frames)

    @property
    def num_pixel_frames(self) -> int:
        """Frames of the finished video."""
        if self.config.sections_apart:
            return self.config.section_frames * len(self.sections)
        return self.config.temporal_compression * (len(self.shown_latents) - 1) + 1

    @property
    def duration_seconds(self) -> float:
        """Length of the finished video; sections are whole, so rarely what was asked for."""
        return self.num_pixel_frames / self.config.fps

    @property
    def latent_size(self) -> Size:
        """(height, width) of the latent grid."""
        scale = self.config.spatial_compression
        return self.height // scale, self.width // scale


def num_sections(seconds: float, config: GenerationConfig) -> int:
    """Sections for a duration: at least one, halves rounded to even, as the official code does."""
    return max(1, round(config.fps * seconds / config.section_frames))


def prompt_starts(request: GenerationRequest, config: GenerationConfig) -> tuple[int, ...]:
    """The first section (by time) of each prompt.

    Raises:
        InvalidRequest: A prompt starts outside the video, or in no later section than the one
            before it, which would then never be told.
    """
    length = config.section_frames / config.fps
    count, starts = num_sections(request.seconds, config), [0]
    for later in request.later_prompts:
        start = int(later.seconds / length)
        if starts[-1] + 1 == count:
            raise InvalidRequest(
                "later_prompts",
                f"no section is left for a prompt at {later.seconds:g} s: sections last "
                f"{length:g} s, this video has {count}, and each prompt has one of its own",
            )
        if not starts[-1] < start < count:
            raise InvalidRequest(
                "later_prompts",
                f"a prompt at {later.seconds:g} s falls into section {start}, but must fall into "
                f"one from {starts[-1] + 1} to {count - 1}: sections last {length:g} s, prompts "
                "ascend, and each has a section of its own",
            )
        starts.append(start)
    return tuple(starts)


def plan_generation(request: GenerationRequest, image_size: Size | None) -> Plan:
    """Decide everything about a request.

    Args:
        request: What the user asks for.
        image_size: (height, width) of the picture in pixels; None without one, text-to-video.

    Raises:
        InvalidRequest: Names the field, its limit and the way out.
    """
    config = _named(GENERATION_CONFIGS, "preset", request.preset)
    order_name, order = _order(request, config, pictured=image_size is not None)
    steps = config.steps if request.steps is None else request.steps
    guidance = _guidance(request, config)
    _check("seconds", request.seconds, 0.1, MAX_SECONDS)
    _check("steps", steps, 1, MAX_STEPS)
    _check("seed", request.seed, 0, MAX_SEED)
    _check("guidance_scale", guidance, 0.0, MAX_GUIDANCE)
    if request.cfg_scale is not None:
        _check("cfg_scale", request.cfg_scale, 1.0, MAX_CFG)
    _check_quality(request.quality, config)
    schedule = fitted_schedule(
        request.schedule or order.default_schedule,
        parse_schedule(order.default_schedule),
        FamilyOptions(window=config.window),
    )
    if schedule.window != config.window:
        raise InvalidRequest(
            "schedule",
            f"{schedule} generates {schedule.window} latent frames a section, but preset "
            f"{request.preset} generates {config.window}: write g{config.window}",
        )
    _check_kernels(schedule)
    sections = order.sections(
        num_sections(request.seconds, config), schedule, prompt_starts(request, config)
    )
    method = _history_method(request, config, schedule, sections)
    if image_size is None:
        sections = without_picture(sections)
    if method.ranking != "time":
        sections = with_candidates(sections, pictured=image_size is not None)
    shape = (image_size or config.shape) if request.size is None else parse_size(request.size)
    height, width = nearest_bucket(shape, config.buckets)
    return Plan(
        request=request,
        config=config,
        order=order_name,
        schedule=schedule,
        height=height,
        width=width,
        steps=steps,
        guidance_scale=guidance,
        history=method,
        sections=sections,
        pictured=image_size is not None,
    )


def default_order(config: GenerationConfig, *, pictured: bool) -> str:
    """The order of a request that names none."""
    return config.order if pictured or not ORDERS[config.order].needs_picture else TEXT_ORDER


def _order(
    request: GenerationRequest, config: GenerationConfig, *, pictured: bool
) -> tuple[str, Order]:
    """The order and its name. Raises InvalidRequest."""
    name = request.order or default_order(config, pictured=pictured)
    order = _named(ORDERS, "order", name)
    if not pictured and order.needs_picture:
        able = ", ".join(name for name, each in ORDERS.items() if not each.needs_picture)
        raise InvalidRequest(
            "order",
            f"{name} {order.needs_picture}: give an image, or choose one of: {able}",
        )
    return name, order


def _guidance(request: GenerationRequest, config: GenerationConfig) -> float:
    """Distilled guidance, 0 for a model that has none."""
    if config.guidance_scale is None and request.guidance_scale is not None:
        raise InvalidRequest(
            "guidance_scale",
            f"preset {request.preset} has no distilled guidance: leave it out and use cfg_scale",
        )
    chosen = config.guidance_scale if request.guidance_scale is None else request.guidance_scale
    return chosen or 0.0


def _history_method(
    request: GenerationRequest,
    config: GenerationConfig,
    schedule: PackingSchedule,
    sections: Sequence[Section],
) -> HistoryMethod:
    if request.attention == "causal" and not config.causal:
        raise InvalidRequest(
            "attention", f"preset {request.preset} has full attention only: leave attention out"
        )
    if request.ranking != "time" and any(section.restart for section in sections):
        raise InvalidRequest(
            "ranking", "this order remembers nothing to rank: leave ranking out or choose another"
        )
    return HistoryMethod(
        ranking=request.ranking,
        seconds_per_frame=config.temporal_compression / config.fps,
        noise=request.history_noise,
        noise_mode=request.history_noise_mode,
        guidance=request.history_guidance,
        attention=request.attention,
        discretised=schedule.discretised,
    )


def _check_quality(quality: str, config: GenerationConfig) -> None:
    _named(QUALITIES, "quality", quality)
    if quality != "exact" and not config.skips:
        raise InvalidRequest(
            "quality", "no step cache is fitted to this preset: leave quality out, or take exact"
        )


def _check_kernels(schedule: PackingSchedule) -> None:
    """Refuse kernels that no projection can be made for; others are interpolated."""
    wrong = {str(level.kernel) for level in schedule.levels if not has_projection(level.kernel)}
    if wrong:
        raise InvalidRequest(
            "schedule",
            f"kernel {', '.join(sorted(wrong))} cannot be made from the model's k1: heights and "
            "widths must be even, and sides beyond k8h16w16 must average down to it",
        )


def _named(table: Mapping[str, _T], what: str, name: str) -> _T:
    try:
        return table[name]
    except KeyError:
        known = ", ".join(table)
        # The name is left out: the service answers with this sentence and never echoes input.
        raise InvalidRequest(what, f"there is no such {what}; choose one of: {known}") from None


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidRequest(name, f"must be between {low:.12g} and {high:.12g}, not {value:.12g}")
