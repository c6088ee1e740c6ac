"""What a frame shows, measured from its pixels, where the scene is known.

For scenes with one thing. A pixel belongs to the thing if it is nearer to the thing's colour, in
any of its shades, than to the background, and is not the background. From this mask follow
presence, place, shape and colour of the thing; from the rest, how well the background is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, UInt8

from framepack.world.render import RIM, draw_background, silhouette
from framepack.world.scene import ALL_COLOURS, Scene, Thing

Series = npt.NDArray[np.float64]
Video = UInt8[np.ndarray, "t h w 3"]
Mask = Bool[np.ndarray, "t h w"]

_OFF_GROUND = 0.15
_PRESENT = 0.35
_AROUND = 3
"""Pixels around the thing that count as neither thing nor background."""

_CORE = 2
"""Pixels from the edge of the thing that its antialiasing and its rim may reach."""

_NO_NOISE = 1e-6
"""Least mean squared error, so that a perfect picture has 60 dB."""


@dataclass(frozen=True)
class Appearance:
    """One number a frame; NaN where there is nothing to measure.

    Attributes:
        background_psnr: In dB, away from the thing.
        presence: 1 if at least 35 % of the expected area is there.
        iou: Of the mask with the thing's ideal shape at the mask's middle; 0 if it is not present.
        colour_error: Mean distance to the thing's colour in its core.
        x: Middle of the mask in pixels; ``y`` likewise.
    """

    background_psnr: Series
    presence: Series
    iou: Series
    colour_error: Series
    x: Series
    y: Series


def measure_appearance(frames: Video, scene: Scene) -> Appearance:
    """Measure every frame.

    Raises:
        ValueError: The scene does not show exactly one thing.
    """
    (thing,) = scene.things
    pixels = frames.shape[1]
    values = (frames / 255).astype(np.float32)
    ground = np.moveaxis(draw_background(scene.background, pixels), 0, -1)
    mask = find_thing(values, ground, thing)
    area = mask.sum((1, 2)).astype(np.float64)
    middle = (pixels - 1) / 2
    expected = silhouette(thing, middle, middle, pixels).sum()
    present = area > _PRESENT * expected
    x, y = _middles(mask, area)
    return Appearance(
        background_psnr=_background_psnr(values, ground, mask),
        presence=present.astype(np.float64),
        iou=np.array(
            [
                _iou(part, thing, cx, cy) if there else 0.0
                for part, cx, cy, there in zip(mask, x, y, present, strict=True)
            ]
        ),
        colour_error=_colour_error(values, mask, thing),
        x=np.where(present, x, np.nan),
        y=np.where(present, y, np.nan),
    )


def find_thing(
    values: npt.NDArray[np.float32], ground: npt.NDArray[np.float32], thing: Thing
) -> Mask:
    """Pixels that show the thing."""
    colour = np.array(ALL_COLOURS[thing.colour], np.float32)
    shade = np.clip(values @ colour / (colour @ colour), 1 - RIM, 1)
    to_thing = np.linalg.norm(values - shade[..., None] * colour, axis=-1)
    to_ground = np.linalg.norm(values - ground, axis=-1)
    found: Mask = (to_thing < to_ground) & (to_ground > _OFF_GROUND)
    return found


def _middles(mask: Mask, area: Series) -> tuple[Series, Series]:
    index = np.arange(mask.shape[-1])
    safe = np.maximum(area, 1)
    return (mask.sum(1) @ index) / safe, (mask.sum(2) @ index) / safe


def _background_psnr(
    values: npt.NDArray[np.float32], ground: npt.NDArray[np.float32], mask: Mask
) -> Series:
    away = ~_grown(mask, _AROUND)
    squared = np.square(values - ground).mean(-1)
    count = away.sum((1, 2))
    error = (squared * away).sum((1, 2)) / np.maximum(count, 1)
    psnr: Series = -10 * np.log10(np.maximum(error, _NO_NOISE)).astype(np.float64)
    return np.where(count > 0, psnr, np.nan)


def _colour_error(values: npt.NDArray[np.float32], mask: Mask, thing: Thing) -> Series:
    core = ~_grown(~mask, _CORE)
    error = np.abs(values - np.array(ALL_COLOURS[thing.colour], np.float32)).mean(-1)
    count = core.sum((1, 2))
    mean: Series = (error * core).sum((1, 2)) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _iou(mask: Bool[np.ndarray, "h w"], thing: Thing, x: float, y: float) -> float:
    ideal = silhouette(thing, x, y, mask.shape[-1]) > 0.5
    return float((mask & ideal).sum() / max(1, (mask | ideal).sum()))


def _grown(mask: Mask, by: int) -> Mask:
    """The mask and everything within so many pixels across or down (a square)."""
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (by, by)
        padded = np.pad(mask, padding)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis=axis)
        mask = np.asarray(windows.any(-1))
    return mask
