"""Seconds of a denoising step of the 13B layout with random weights, on a GPU.

States seconds a step and a section, seconds a frame, model-FLOP utilisation against this device's
own best matrix product, and peak memory. Weights are drawn where they are to wait, so nothing
travels but this repository (and einops, jaxtyping and safetensors, where a machine has torch
alone). `--placement` says where that is, or that products are to run in float8, and how many did is
counted; `--vram` sets a hard cap, beyond which the allocator fails. `--skip` also times a section
in which every second step gives the residual of the one before: 12 of 25, whatever that looks like.
`--heads`, `--double` and `--single` shrink the layout for a rehearsal on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench._common import emit
from framepack.generation.stepcache import ResidualCache
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.float8 import CountedProducts
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.placement import Placement, Placing
from framepack.packing.schedule import Kernel

IMAGE_TOKENS, TEXT_TOKENS, WINDOW, STEPS = 729, 100, 9, 25
FRAMES_A_SECTION = 4 * WINDOW
GUIDANCE = 10.0


Step = Callable[..., Tensor]
"""A timestep, and a step cache if there is one, to a velocity."""

RESERVE_GIB = 0.6
"""Of a card, what the driver and the libraries take beside what PyTorch allocates, assumed."""

DRAWN = 2**24
"""Random numbers that all weights repeat: drawing 13 billion on a host takes minutes."""


def build(config: HunyuanVideoConfig, placing: Placing, dtype: torch.dtype) -> PackedHunyuanVideo:
    """The layout with random weights in its inference form, each part where it is to be."""
    with torch.device("meta"):
        model = PackedHunyuanVideo(config).to(dtype)
    model.to_empty(device=placing.loading)
    torch.manual_seed(0)
    drawn = (0.02 * torch.randn(DRAWN, device=placing.loading)).to(dtype)
    for parameter in model.parameters():
        flat = parameter.data.view(-1)
        for start in range(0, len(flat), DRAWN):
            part = flat[start : start + DRAWN]
            part.copy_(drawn[: len(part)])
    fuse(model.eval().requires_grad_(requires_grad=False), None, placing.settle)
    placing.bring_rest(model)
    return model


@dataclass(frozen=True)
class Section:
    """Inputs of one section of a size in pixels, as the released schedule packs them."""

    model: PackedHunyuanVideo
    width: int
    height: int

    def prepare(self) -> Step:
        """Our step, after the section's preparation."""
        config, like = self.model.config, next(self.model.parameters())
        area = (self.height // 8, self.width // 8)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, device=like.device, dtype=like.dtype)

        def level(kernel: Kernel, frames: int, first: int) -> LevelLatents:
            positions = torch.arange(first, first + frames)[None]
            return LevelLatents(kernel, draw(1, 16, frames, *area), positions)

        levels = [
            level(Kernel(4, 8, 8), 16, WINDOW + 4),
            level(Kernel(2, 4, 4), 2, WINDOW + 2),
            level(Kernel(1, 2, 2), 1, 0),
            level(Kernel(1, 2, 2), 1, WINDOW + 1),
        ]
        condition = TextCondition(
            draw(1, TEXT_TOKENS, config.text_embed_dim),
            draw(1, config.pooled_projection_dim),
            draw(1, IMAGE_TOKENS, config.image_proj_dim),
        )
        positions = torch.arange(1, WINDOW + 1)[None]
        prepared = self.model.prepare(levels, positions, area, condition, GUIDANCE)
        target = draw(1, 16, WINDOW, *area)
        return lambda timestep, cache=None: self.model.predict(target, timestep, prepared, cache)


class EverySecond(ResidualCache):
    """Runs the blocks in every second step, the first and the last of 25 among them."""

    def must_run(self, signal: Tensor) -> bool:
        """See `ResidualCache`."""
        return self.step % 2 == 0


class Clock:
    """Seconds of calls, the device's queue included."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def __call__(self, call: Callable[[], Any]) -> float:
        self._wait()
        began = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def ceiling(device: str, dtype: torch.dtype, clock: Clock, side: int) -> float:
    """TFLOP/s of the best square matrix product of this device."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    best = min(clock(lambda: torch.mm(a, b)) for _ in range(10))
    return 2 * side**3 / best / 1e12


def flops(config: HunyuanVideoConfig, width: int, height: int) -> float:
    """Of one step as the plain model computes it, counted without memory."""
    with torch.device("meta"):
        model = PackedHunyuanVideo(config)
        step = Section(model, width, height).prepare()
        with FlopCounterMode(display=False) as counter:
            step(torch.ones(1))
    return float(counter.get_total_flops())


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, object]:
    """All sizes, one after the other."""
    config = HunyuanVideoConfig(
        num_attention_heads=options.heads,
        num_layers=options.double,
        num_single_layers=options.single,
    )
    dtype, clock = getattr(torch, options.dtype), Clock(options.device)
    limit = ceiling(options.device, dtype, clock, options.matmul)
    cap = _cap(options)
    placing = Placing(Placement.parse(options.placement), torch.device(options.device))
    model = build(config, placing, dtype)
    if options.compile:
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            block.compile()
    found = {}
    for size in options.size:
        width, height = map(int, size.split("x"))
        found[size] = _one(Section(model, width, height), options, clock, limit)
    return {
        "matmul_tflops": round(limit, 1),
        "placement": options.placement,
        "cap_gib": cap,
        "sizes": found,
    }


def _cap(options: argparse.Namespace) -> float | None:
    """Let PyTorch have no more of the device than a smaller card would leave it; GiB of that."""
    if options.vram is None or options.device != "cuda":
        return None
    torch.cuda.empty_cache()
    cap = float(options.vram) - RESERVE_GIB
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(cap / total)
    return round(cap, 2)


def _one(
    section: Section, options: argparse.Namespace, clock: Clock, limit: float
) -> dict[str, object]:
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step: list[Step] = []
    prepared = clock(lambda: step.append(section.prepare()))
    timesteps = torch.linspace(1000, 40, options.calls + options.warm_up)
    dtype = next(section.model.parameters()).dtype
    took = [clock(partial(step[0], t.to(dtype)[None])) for t in timesteps]
    with CountedProducts() as products:
        if not options.compile:  # whose own kernels are not seen by a count of operators
            step[0](timesteps[0].to(dtype)[None])
    seconds = median(took[options.warm_up :])
    work = flops(section.model.config, section.width, section.height)
    whole = prepared + STEPS * seconds
    memory = torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else None
    return {
        "seconds_per_step": round(seconds, 4),
        "prepare_seconds": round(prepared, 4),
        "seconds_per_section_25_steps": round(whole, 3),
        "seconds_per_frame_25_steps": round(whole / FRAMES_A_SECTION, 4),
        "tflop_per_step": round(work / 1e12, 2),
        "model_flop_utilisation": round(work / 1e12 / seconds / limit, 3),
        "float8_products_per_step": products.count,
        "peak_gib": None if memory is None else round(memory, 2),
        "seconds": [round(value, 4) for value in took],
        **(_skipping(step[0], prepared, dtype, clock) if options.skip else {}),
    }


def _skipping(
    step: Step, prepared: float, dtype: torch.dtype, clock: Clock
) -> dict[str, dict[str, float]]:
    """A whole section of 25 steps of which 12 are skipped."""
    cache, timesteps = EverySecond(STEPS), torch.linspace(1000, 40, STEPS).to(dtype)
    whole = prepared + clock(lambda: [step(t[None], cache) for t in timesteps])
    found = {
        "steps_skipped": cache.skipped,
        "seconds_per_section": round(whole, 3),
        "seconds_per_frame": round(whole / FRAMES_A_SECTION, 4),
    }
    return {"every_second_step": found}


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench step13b", description=__doc__)
    parser.add_argument("--size", nargs="+", default=["704x544", "640x608", "768x512"])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--double", type=int, default=20)
    parser.add_argument("--single", type=int, default=40)
    parser.add_argument("--calls", type=int, default=8, help="timed steps a size")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--matmul", type=int, default=8192, help="side of the ceiling's matrices")
    parser.add_argument("--compile", action="store_true", help="block by block")
    parser.add_argument("--placement", default="resident", help="see framepack generate")
    parser.add_argument("--vram", type=float, help="cap in GiB, as a card of that size leaves it")
    parser.add_argument("--skip", action="store_true", help="also a section that skips 12 of 25")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    emit("step13b", list(arguments), measure(options), as_json=options.json)
    return 0
