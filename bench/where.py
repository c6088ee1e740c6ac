"""Where a denoising step's time goes: attention, matrix products, everything else; ours and theirs.

Profiles one transformer call of diffusers, of our plain blocks and of our fused blocks, on the
inputs of `bench section`, and draws the shares as a picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench._common import emit
from bench.section import build, make_inputs, our_section, their_call
from framepack.models.fused import fuse

GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("scaled_dot_product", "flash"),
    "matrix products": ("addmm", "::mm", "::bmm", "_linear_pointwise", "conv"),
    "copies": ("::cat", "copy_", "contiguous", "replication_pad"),
}
OTHER = "norms, activations, rotations"
COLOURS = ("#4c78a8", "#72b7b2", "#e45756", "#f2cf5b")


def shares(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Milliseconds of a call by group, the mean of some rounds after a warm-up."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(rounds):
            call()
    total = dict.fromkeys((*GROUPS, OTHER), 0.0)
    for event in found.key_averages():
        total[_group(event.key)] += event.self_cpu_time_total / 1000 / rounds
    return {name: round(value, 1) for name, value in total.items()}


def _group(operator: str) -> str:
    for name, parts in GROUPS.items():
        if any(part in operator for part in parts):
            return name
    return OTHER


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of all three, one after the other."""
    ours, theirs = build(options)
    given = make_inputs(ours.config, options.side, options.window, next(ours.parameters()))
    timestep = torch.tensor([500.0])
    their_step = their_call(theirs, given)

    def ours_by(step: Callable[..., Tensor]) -> dict[str, float]:
        return shares(lambda: step(timestep), options.rounds)

    found = {"diffusers": shares(lambda: their_step(timestep), options.rounds)}
    found["ours, as trained"] = ours_by(our_section(ours, given)())
    found["ours, fused"] = ours_by(our_section(fuse(ours), given)())
    return found


def draw(found: Mapping[str, Mapping[str, float]]) -> str:
    """Stacked bars as SVG."""
    scale = 520 / max(sum(row.values()) for row in found.values())
    lines = []
    for number, (name, row) in enumerate(found.items()):
        left, top = 150.0, 20 + 44 * number
        lines.append(f'<text x="140" y="{top + 20}" text-anchor="end">{name}</text>')
        for colour, value in zip(COLOURS, row.values(), strict=True):
            width = value * scale
            lines.append(
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="30" fill="{colour}"/>'
            )
            left += width
        lines.append(f'<text x="{left + 8:.1f}" y="{top + 20}">{sum(row.values()):.0f} ms</text>')
    for number, (colour, name) in enumerate(zip(COLOURS, next(iter(found.values())), strict=True)):
        left = 150 + 150 * number
        lines.append(f'<rect x="{left}" y="158" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{left + 18}" y="169">{name}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 184" '
        'font-family="sans-serif" font-size="13">\n'
        '<rect width="780" height="184" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench where", description=__doc__)
    parser.add_argument("--heads", type=int, default=3, help="of 128 channels each")
    parser.add_argument("--double", type=int, default=6)
    parser.add_argument("--single", type=int, default=12)
    parser.add_argument("--side", type=int, default=24, help="latents across and down")
    parser.add_argument("--window", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--svg", type=Path, help="draw the shares into this file")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(device="cpu", dtype="float32", compile=False)
    options = parser.parse_args(arguments)
    found = measure(options)
    if options.svg is not None:
        options.svg.write_text(draw(found))
    emit("where", list(arguments), found, as_json=options.json)
    return 0
