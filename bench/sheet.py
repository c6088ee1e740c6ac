"""What `tiny` makes, to be looked at: strips of frames of held-out scenes under their prompts.

Scenes with one thing, as those that are measured: ``python -m bench sheet docs/world-sheet.jpg``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from framepack.evaluation.world import FIRST_SEED, generate_frames
from framepack.generation.plan import GENERATION_CONFIGS, GenerationRequest, plan_generation
from framepack.presets import LoraFile, Models, load_preset
from framepack.world.render import render
from framepack.world.scene import Cast, draw_scene

_FRAMES = 7
_SIDE = 64
_SHOWN = 92
_GAP = 6
_TEXT = 14
_COLUMNS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the videos and write the sheet."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    loras = [LoraFile(options.lora)] if options.lora else []
    models = load_preset("tiny", options.weights, device="cpu", loras=loras)
    cast = Cast(colours=tuple(options.colours.split(","))) if options.colours else None
    strips = [_strip(models, number, options.order, cast) for number in range(options.scenes)]
    rows = [
        np.concatenate(strips[first : first + _COLUMNS], axis=1)
        for first in range(0, len(strips) // _COLUMNS * _COLUMNS, _COLUMNS)
    ]
    Image.fromarray(np.concatenate(rows)).save(options.output, quality=90)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench sheet", description=__doc__)
    parser.add_argument("output", type=Path, help="a .jpg or .png file")
    parser.add_argument("--weights", type=Path, help="instead of the shipped ones")
    parser.add_argument("--scenes", type=int, default=16, help="even (%(default)s)")
    parser.add_argument("--colours", help="of things, such as purple (those trained on)")
    parser.add_argument("--lora", type=Path, help="to merge into the transformer")
    parser.add_argument("--order", default="inverted", help="(%(default)s)")
    return parser


def _strip(models: Models, number: int, order: str, cast: Cast | None) -> np.ndarray:
    """Evenly spaced frames of a video of four sections under its prompt."""
    scene, config = draw_scene(FIRST_SEED + number, 1, cast), GENERATION_CONFIGS["tiny"]
    request = GenerationRequest(
        prompt=scene.caption,
        preset="tiny",
        seconds=4 * config.section_frames / config.fps,
        seed=number,
        order=order,
    )
    plan = plan_generation(request, (_SIDE, _SIDE))
    frames = generate_frames(models, plan, render(scene, 1).frames[0])
    chosen = frames[np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)]
    picture = Image.new("RGB", (_FRAMES * _SHOWN + 2 * _GAP, _SHOWN + _TEXT + _GAP), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((2, 0), scene.caption, fill="black", font=ImageFont.load_default(size=12))
    for place, frame in enumerate(chosen):
        shown = Image.fromarray(frame).resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC)
        picture.paste(shown, (place * _SHOWN, _TEXT))
    return np.asarray(picture)


if __name__ == "__main__":
    raise SystemExit(main())
