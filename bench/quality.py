"""What leaving work out costs: each lossy choice against exact, on trained `tiny`.

Videos of held-out scenes are made exactly, then again with the same seed by every choice. For each:
evaluations of the transformer that were skipped, sampling time in CPU seconds (``ratio`` is
exact's over it), the latents' relative error, and PSNR and SSIM of the frames against exact's.
Another video is not a worse one: these figures say how far a choice is from exact, not how good it
looks. ``--calibrate`` first measures the magnitudes that MagCache goes by, on other scenes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench._common import emit
from framepack.evaluation.world import FIRST_SEED
from framepack.generation.encode import encode
from framepack.generation.generate import sampling_settings
from framepack.generation.history import History
from framepack.generation.plan import GenerationRequest, Plan, plan_generation
from framepack.generation.section import sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stepcache import Calibration, StepCacheFactory, TeaCacheSettings
from framepack.generation.stitch import SectionDecoder
from framepack.presets import MAGCACHE, Models, load_preset
from framepack.world.render import render
from framepack.world.scene import Scene, draw_scene

CALIBRATION_SEEDS = 900_000
"""Scenes to calibrate on are not those that are measured."""


@dataclass(frozen=True)
class Made:
    """A video before encoding.

    Attributes:
        latents: (1, c, t, h, w) of all sections, by time.
        frames: (n, height, width, 3) bytes.
        skipped: Evaluations left out.
        seconds: CPU seconds of sampling.
    """

    latents: Tensor
    frames: np.ndarray
    skipped: int
    seconds: float


def plan_of(scene: Scene, seed: int, sections: int, order: str) -> Plan:
    """A video of so many sections."""
    request = GenerationRequest(
        prompt=scene.caption, seconds=1.2 * sections, seed=seed, order=order
    )
    return plan_generation(request, (64, 64))


def make(models: Models, plan: Plan, image: np.ndarray, cache: StepCacheFactory | None) -> Made:
    """Sample and decode a whole video."""
    conditioning = encode(models.encoders, plan, image)
    history, noise = History(conditioning.start), noise_generator(plan.request.seed)
    decoder, runs, skipped, seconds = SectionDecoder(models.codec, plan), [], 0, 0.0
    settings = sampling_settings(plan, cache)
    for section in plan.sections:
        began = time.process_time()
        *_, last = sample_section(
            models.transformer, conditioning, section, history, settings, noise
        )
        seconds += time.process_time() - began
        skipped += last.skipped
        history.add(section.frames, last.estimate)
        if isinstance(cache, Calibration):  # nobody looks at it
            continue
        runs.append(decoder.decode(section.index, history.frames))
    latents = history.frames(range(1, plan.num_latent_frames))
    ordered = sorted(runs, key=lambda run: run.first_frame)
    frames = [run.frames for run in ordered] or [np.empty((0, plan.height, plan.width, 3))]
    return Made(latents, np.concatenate(frames), skipped, seconds)


def psnr(made: np.ndarray, exact: np.ndarray) -> float:
    """Of whole videos, in dB; 100 for equal ones."""
    error = np.square(made.astype(np.float64) - exact).mean() / 255**2
    return float(-10 * np.log10(max(error, 1e-10)))


def ssim(made: np.ndarray, exact: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian windows, on luma, over frames."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    x, y = (torch.from_numpy(v).double() @ luma for v in (made, exact))
    line = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    kernel = torch.outer(line, line)[None, None] / line.sum() ** 2

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values[:, None], kernel)

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mx * my + c1) * (2 * cov + c2)
    return float((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def calibrate(models: Models, scenes: int, sections: int) -> Calibration:
    """Magnitudes over scenes, in both released orders."""
    found = Calibration()
    for number in range(scenes):
        scene = draw_scene(CALIBRATION_SEEDS + number, num_things=1)
        image = render(scene, 1).frames[0]
        for order in ("inverted", "forward"):
            make(models, plan_of(scene, number, sections, order), image, found)
    return found


def choices(models: Models) -> dict[str, tuple[Models, StepCacheFactory | None]]:
    """What is measured against exact."""
    stored, multiplied = (
        load_preset("tiny", device="cpu", placement=f"resident+float8{behind}")
        for behind in ("", "mm")
    )
    return {
        "standard": (models, models.step_cache("standard")),
        "draft": (models, models.step_cache("draft")),
        "teacache_0.10": (models, TeaCacheSettings(0.10)),
        "teacache_0.15": (models, TeaCacheSettings(0.15)),
        "float8_storage": (stored, None),
        "float8_products": (multiplied, None),
    }


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All choices over all scenes, interleaved."""
    models = load_preset("tiny", device="cpu")
    if options.calibrate is not None:
        calibrate(models, options.scenes, options.sections).write(options.calibrate)
    rows: dict[str, list[dict[str, float]]] = {}
    for number in range(options.scenes):
        scene = draw_scene(FIRST_SEED + number, num_things=1)
        image = render(scene, 1).frames[0]
        for order in options.orders:
            plan = plan_of(scene, number, options.sections, order)
            exact = make(models, plan, image, None)
            for name, (engine, cache) in choices(models).items():
                made = make(engine, plan, image, cache)
                rows.setdefault(f"{name} {order}", []).append(compared(made, exact, plan))
    return {
        name: {key: round(mean(row[key] for row in found), 4) for key in found[0]}
        for name, found in rows.items()
    }


def compared(made: Made, exact: Made, plan: Plan) -> dict[str, float]:
    """One video against the exact one."""
    difference = (made.latents - exact.latents).norm() / exact.latents.norm()
    return {
        "ratio": exact.seconds / made.seconds,
        "skipped": made.skipped / (len(plan.sections) * plan.steps),
        "latent_error": float(difference),
        "psnr": psnr(made.frames, exact.frames),
        "ssim": ssim(made.frames, exact.frames),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench quality", description=__doc__)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--sections", type=int, default=4, help="of each video")
    parser.add_argument("--orders", nargs="+", default=["inverted", "forward"])
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help=f"such as {MAGCACHE}")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    emit("quality", list(arguments), measure(options), as_json=options.json)
    return 0
