"""Seconds of a denoising step of the 13B layout with random weights, on a GPU.

States seconds a step and a section, seconds a frame, model-FLOP utilisation against this device's
own best matrix product, and peak memory. Weights are drawn on the device, so nothing travels but
this repository (and einops, jaxtyping and safetensors, where a machine has torch alone). `--heads`,
`--double` and `--single` shrink the layout for a rehearsal on a CPU.
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench._common import emit
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.packing.schedule import Kernel

IMAGE_TOKENS, TEXT_TOKENS, WINDOW, STEPS = 729, 100, 9, 25
FRAMES_A_SECTION = 4 * WINDOW
GUIDANCE = 10.0


def build(config: HunyuanVideoConfig, device: str, dtype: torch.dtype) -> PackedHunyuanVideo:
    """The layout with random weights, drawn where they stay."""
    with torch.device("meta"):
        model = PackedHunyuanVideo(config).to(dtype)
    model.to_empty(device=device)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class Section:
    """Inputs of one section of a size in pixels, as the released schedule packs them."""

    model: PackedHunyuanVideo
    width: int
    height: int

    def prepare(self) -> Callable[[Tensor], Tensor]:
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
        return lambda timestep: self.model.predict(target, timestep, prepared)


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
    model = fuse(build(config, options.device, dtype))
    if options.compile:
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            block.compile()
    found = {}
    for size in options.size:
        width, height = map(int, size.split("x"))
        found[size] = _one(Section(model, width, height), options, clock, limit)
    return {"matmul_tflops": round(limit, 1), "sizes": found}


def _one(
    section: Section, options: argparse.Namespace, clock: Clock, limit: float
) -> dict[str, object]:
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step: list[Callable[[Tensor], Tensor]] = []
    prepared = clock(lambda: step.append(section.prepare()))
    timesteps = torch.linspace(1000, 40, options.calls + options.warm_up)
    dtype = next(section.model.parameters()).dtype
    took = [clock(partial(step[0], t.to(dtype)[None])) for t in timesteps]
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
        "peak_gib": None if memory is None else round(memory, 2),
        "seconds": [round(value, 4) for value in took],
    }


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
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    emit("step13b", list(arguments), measure(options), as_json=options.json)
    return 0
