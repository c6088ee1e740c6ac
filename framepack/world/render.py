"""Scenes to pixels, with the truth that measurements need: masks and centres.

Shapes are signed distances, antialiased over one pixel, with a darker rim. Only the box that a
thing passes through is drawn, so a clip of 17 frames takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32, UInt8

from framepack.world.motion import centres
from framepack.world.scene import ALL_COLOURS, BACKGROUNDS, SIDE, Background, Scene, Shape, Thing

Plane = npt.NDArray[np.float32]

_TEXTURE = 0.10
RIM = 0.22
"""How much darker a thing is at its edge."""

_RIM_WIDTH = 1.6


@dataclass(frozen=True)
class Clip:
    """A rendered scene.

    Attributes:
        frames: RGB.
        masks: How much of each pixel each thing covers, 0 to 1, things in front ignored.
        centres: (x, y) of each thing's centre in pixels.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    masks: Float32[np.ndarray, "things t h w"]
    centres: Float32[np.ndarray, "things t 2"]


def render(scene: Scene, num_frames: int, pixels: int = 64) -> Clip:
    """Draw consecutive pixel frames of a scene.

    Args:
        scene: What to draw.
        num_frames: Pixel frames, from the scene's start on.
        pixels: Height and width.
    """
    times = (scene.start + np.arange(num_frames)).astype(np.float32)
    ground = draw_background(scene.background, pixels)
    picture = np.broadcast_to(ground, (num_frames, *ground.shape)).copy()
    masks = np.zeros((len(scene.things), num_frames, pixels, pixels), np.float32)
    paths = np.stack([centres(thing, times) for thing in scene.things])
    for thing, path, mask in zip(scene.things, paths, masks, strict=True):
        _draw_thing(picture, mask, thing, path)
    frames = np.ascontiguousarray((picture * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1))
    return Clip(frames, masks, (paths + 0.5) * (pixels / SIDE) - 0.5)


def draw_background(background: Background, pixels: int = 64) -> Float32[np.ndarray, "3 h w"]:
    """The picture without things, RGB from 0 to 1."""
    axis = _units(pixels)
    y, x = axis[:, None], axis[None, :]
    cos, sin = np.float32(np.cos(background.angle)), np.float32(np.sin(background.angle))
    rate = np.float32(2 * np.pi / background.period)
    across = np.sin(rate * (x * cos + y * sin) + background.phase)
    along = np.sin(rate * (y * cos - x * sin) + background.phase)
    texture: Mapping[str, Plane] = {
        "plain": np.zeros_like(across),
        "striped": np.tanh(2 * across),
        "checkered": np.tanh(3 * across * along),
        "dotted": np.tanh(6 * (across * along - 0.55)),
    }
    middle = (SIDE - 1) / 2
    light = _TEXTURE * texture[background.pattern] + background.gradient * (y - middle) / middle
    colour = np.array(BACKGROUNDS[background.colour], np.float32)[:, None, None]
    return np.clip(colour + light, 0, 1).astype(np.float32)


def silhouette(thing: Thing, x: float, y: float, pixels: int = 64) -> Float32[np.ndarray, "h w"]:
    """How much of each pixel a thing covers with its centre at (x, y) in pixels."""
    axis, scale = _units(pixels), SIDE / pixels
    dx = axis[None, :] - np.float32((x + 0.5) * scale - 0.5)
    dy = axis[:, None] - np.float32((y + 0.5) * scale - 0.5)
    distance = _DISTANCES[thing.shape](dx, dy, np.float32(thing.radius))
    cover: Plane = np.clip(0.5 - distance / scale, 0, 1)
    return cover


def _units(pixels: int, part: slice = slice(None)) -> Plane:
    """Pixel centres in units; at 64 pixels they are the pixel numbers."""
    index = np.arange(pixels, dtype=np.float32)[part]
    return ((index + 0.5) * (SIDE / pixels) - 0.5).astype(np.float32)


def _draw_thing(picture: Plane, mask: Plane, thing: Thing, path: Plane) -> None:
    """Lay a thing over a picture (t, 3, h, w) and note in the mask (t, h, w) where it is."""
    pixels = picture.shape[-1]
    columns, rows = (_box(path[:, axis], thing.radius, pixels) for axis in (0, 1))
    dx = _units(pixels, columns)[None, None, :] - path[:, 0, None, None]
    dy = _units(pixels, rows)[None, :, None] - path[:, 1, None, None]
    distance = _DISTANCES[thing.shape](dx, dy, np.float32(thing.radius))
    cover = np.clip(0.5 - distance * (pixels / SIDE), 0, 1)
    shade = 1 - RIM * (np.clip(distance + _RIM_WIDTH, -1, 1) * 0.5 + 0.5)
    mask[:, rows, columns] = cover
    under = picture[:, :, rows, columns]
    for channel, value in enumerate(ALL_COLOURS[thing.colour]):
        under[:, channel] += cover * (np.float32(value) * shade - under[:, channel])


def _box(positions: Plane, radius: float, pixels: int) -> slice:
    """Pixels between which a thing stays, with room for its corners and its antialiased edge."""
    reach = radius * 1.2 + 2
    scale = pixels / SIDE
    low, high = (float(positions.min()) - reach) * scale, (float(positions.max()) + reach) * scale
    return slice(max(0, int(low)), min(pixels, int(high) + 2))


def _ball(dx: Plane, dy: Plane, radius: np.float32) -> Plane:
    distance: Plane = np.sqrt(dx * dx + dy * dy) - radius
    return distance


def _square(dx: Plane, dy: Plane, radius: np.float32) -> Plane:
    distance: Plane = np.maximum(np.abs(dx), np.abs(dy)) - np.float32(0.88) * radius
    return distance


def _ring(dx: Plane, dy: Plane, radius: np.float32) -> Plane:
    from_middle = np.abs(np.sqrt(dx * dx + dy * dy) - np.float32(0.72) * radius)
    distance: Plane = from_middle - np.float32(0.28) * radius
    return distance


def _triangle(dx: Plane, dy: Plane, radius: np.float32) -> Plane:
    """Equilateral, its tip up, about the centre of its circle."""
    sides = np.float32(np.sqrt(3) / 2) * np.abs(dx) - np.float32(0.5) * dy
    distance: Plane = np.maximum(sides, dy) - np.float32(0.55) * radius
    return distance


def _cross(dx: Plane, dy: Plane, radius: np.float32) -> Plane:
    """Two bars, upright and level, each a third as broad as it is long."""
    wide, thin = np.float32(0.96) * radius, np.float32(0.34) * radius
    x, y = np.abs(dx), np.abs(dy)
    distance: Plane = np.minimum(np.maximum(x - wide, y - thin), np.maximum(x - thin, y - wide))
    return distance


_DISTANCES: Mapping[Shape, Callable[[Plane, Plane, np.float32], Plane]] = {
    "ball": _ball,
    "square": _square,
    "ring": _ring,
    "triangle": _triangle,
    "cross": _cross,
}
