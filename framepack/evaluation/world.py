"""Measure a preset on held-out scenes of the procedural world.

Arms are ways to get a video of a scene. Two are controls: ``truth``, the rendered scene, shows that
the measures find nothing wrong where nothing is; ``codec``, the scene encoded and decoded, is the
most that any sampler can reach. The others generate in the order of sampling of their name, from
the scene's first frame and its caption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from framepack.errors import InvalidRequest
from framepack.evaluation.appearance import Series, Video, measure_appearance
from framepack.evaluation.movement import classify_motion, law_shares, mean_speed, seam_ratios
from framepack.evaluation.statistics import Figures, summarise_series, summarise_values
from framepack.generation.encode import encode
from framepack.generation.generate import sampling_settings
from framepack.generation.orders import ORDERS
from framepack.generation.plan import GENERATION_CONFIGS, GenerationRequest, Plan, plan_generation
from framepack.generation.sections import make_frames
from framepack.generation.stitch import to_uint8
from framepack.presets import Models
from framepack.world.render import render
from framepack.world.scene import FIRST_HELD_OUT_SEED, Cast, Scene, draw_scene

CONTROLS = ("truth", "codec")
FIRST_SEED = FIRST_HELD_OUT_SEED + 10_000
"""Far from the scenes that training measures its held-out loss on."""


@dataclass(frozen=True)
class WorldEvaluation:
    """What to measure.

    Attributes:
        specs: Held-out scenes with one thing.
        seeds: Videos of each scene and generated arm, with different noise.
        sections: Of each video.
        arms: Controls, or keys of `ORDERS`.
        steps: Denoising steps; the preset's if None.
        pixels: Height and width.
        cast: What things may be; None for what base models are trained on.
    """

    specs: int = 64
    seeds: int = 2
    sections: int = 10
    arms: tuple[str, ...] = ("truth", "codec", "inverted", "forward", "vanilla")
    steps: int | None = None
    pixels: int = 64
    cast: Cast | None = None

    def __post_init__(self) -> None:
        for name in ("specs", "seeds", "sections"):
            if getattr(self, name) < 1:
                raise InvalidRequest(name, f"must be at least 1, not {getattr(self, name)}")
        if len(set(self.arms)) < len(self.arms):
            raise InvalidRequest("arms", "one is named twice")
        unknown = sorted(set(self.arms) - {*CONTROLS, *ORDERS})
        if unknown:
            known = ", ".join((*CONTROLS, *ORDERS))
            raise InvalidRequest("arms", f"there is no {', '.join(unknown)}; choose from {known}")

    @property
    def videos(self) -> int:
        """How many videos all arms have together."""
        return sum(self.specs * self.seeds_of(arm) for arm in self.arms)

    def seeds_of(self, arm: str) -> int:
        """Controls have no noise, so one video of a scene is all there is."""
        return 1 if arm in CONTROLS else self.seeds


@dataclass(frozen=True)
class Measured:
    """One video's figures: some a frame, some for the whole."""

    series: Mapping[str, Series]
    values: Mapping[str, float]


def evaluate_world(models: Models, evaluation: WorldEvaluation) -> Iterator[tuple[str, Measured]]:
    """Measure all videos, yielding each with the name of its arm."""
    for number in range(evaluation.specs):
        scene = draw_scene(FIRST_SEED + number, num_things=1, cast=evaluation.cast)
        plan = _plan(scene, evaluation, order=None, seed=0)
        truth = render(scene, plan.num_pixel_frames, evaluation.pixels).frames
        for arm in evaluation.arms:
            for seed in range(evaluation.seeds_of(arm)):
                if arm == "truth":
                    frames = truth
                elif arm == "codec":
                    frames = round_trip(models, truth)
                else:
                    plan = _plan(scene, evaluation, arm, seed=number * evaluation.seeds + seed)
                    frames = generate_frames(models, plan, truth[0])
                window = plan.config.window
                yield arm, measure(frames, truth, scene, window, control=arm in CONTROLS)


def summarise(measured: Mapping[str, Sequence[Measured]]) -> dict[str, dict[str, Figures]]:
    """Figures of each arm and metric."""
    return {
        arm: {
            **{name: summarise_series([v.series[name] for v in vs]) for name in vs[0].series},
            **{name: summarise_values([v.values[name] for v in vs]) for name in vs[0].values},
        }
        for arm, vs in measured.items()
    }


def measure(frames: Video, truth: Video, scene: Scene, window: int, *, control: bool) -> Measured:
    """Figures of one video of a scene whose sections have so many latent frames."""
    seen, real = measure_appearance(frames, scene), measure_appearance(truth, scene)
    series = {
        "background_psnr": seen.background_psnr,
        "presence": seen.presence,
        "iou": seen.iou,
        "colour_error": seen.colour_error,
        "seam_ratio": seam_ratios(frames, window),  # one a joint of sections, not a frame
    }
    if control:  # a generated video is another future of the same beginning
        error = np.square(frames.astype(np.float64) - truth).mean((1, 2, 3)) / 255**2
        series["psnr"] = -10 * np.log10(np.maximum(error, 1e-6))
    true_speed = mean_speed(real.x, real.y)
    (thing,) = scene.things
    shares = law_shares(seen.x, seen.y, thing.radius, frames.shape[1])
    return Measured(
        series,
        {
            "speed_ratio": mean_speed(seen.x, seen.y) / true_speed if true_speed else math.nan,
            "motion_share": shares[thing.motion],
            "motion_class": float(classify_motion(shares) == thing.motion),
        },
    )


def generate_frames(models: Models, plan: Plan, image: UInt8[np.ndarray, "h w 3"]) -> Video:
    """A whole video's pixels, before any video encoding."""
    conditioning = encode(models.encoders, plan, image)
    settings = sampling_settings(plan, models.step_cache(plan.request.quality))
    return make_frames(models.transformer, models.codec, plan, conditioning, settings)


def round_trip(models: Models, frames: Video) -> Video:
    """A video after encoding and decoding, without noise."""
    vae: Any = models.codec.vae
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(vae.device, vae.dtype)
    with torch.inference_mode():
        latents = vae.encode(pixels / 127.5 - 1).latent_dist.mode()
        made = vae.decode(latents).sample
    return to_uint8(made)


def _plan(scene: Scene, evaluation: WorldEvaluation, order: str | None, seed: int) -> Plan:
    config = GENERATION_CONFIGS["tiny"]
    pixel_frames = evaluation.sections * config.window * config.temporal_compression
    request = GenerationRequest(
        prompt=scene.caption,
        preset="tiny",
        seconds=pixel_frames / config.fps,
        steps=evaluation.steps,
        seed=seed,
        order=order,
    )
    return plan_generation(request, (evaluation.pixels, evaluation.pixels))
