"""The laws of motion of the procedural world: where a thing's centre is at each pixel frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float32

from framepack.world.scene import SIDE, Motion, Thing

Times = Float32[np.ndarray, " t"]
Coordinates = tuple[Times, Times]

_ORBIT = 16.0
_BOUNCE_HEIGHT = 0.75


def centres(thing: Thing, times: Times) -> Float32[np.ndarray, "t 2"]:
    """(x, y) of a thing's centre in units, at times in pixel frames."""
    x, y = _LAWS[thing.motion](thing, times)
    return np.stack([x, y], axis=-1).astype(np.float32)


def _span(thing: Thing) -> tuple[float, float]:
    """Least and greatest coordinate of the centre, so that a thing never leaves the picture."""
    return thing.radius + 1, SIDE - 1 - thing.radius


def _to_and_fro(position: Times, span: tuple[float, float]) -> Times:
    """Reflect a steady position between two walls."""
    low, high = span
    around = np.mod(position - low, 2 * (high - low))
    return low + np.minimum(around, 2 * (high - low) - around)


def _slides(thing: Thing, times: Times) -> Coordinates:
    x = _to_and_fro(thing.x + thing.heading * thing.speed * times, _span(thing))
    return x, np.full_like(times, thing.y)


def _moves(thing: Thing, times: Times) -> Coordinates:
    y = _to_and_fro(thing.y + thing.heading * thing.speed * times, _span(thing))
    return np.full_like(times, thing.x), y


def _bounces(thing: Thing, times: Times) -> Coordinates:
    """Free fall from three quarters of the height; the mean vertical speed is ``speed``."""
    low, high = _span(thing)
    height = _BOUNCE_HEIGHT * (high - low)
    along = np.mod(times * thing.speed / (2 * height) + thing.phase, 1.0)
    x = _to_and_fro(thing.x + 0.4 * thing.heading * thing.speed * times, (low, high))
    return x, high - 4 * height * along * (1 - along)


def _circles(thing: Thing, times: Times) -> Coordinates:
    low, high = _span(thing)
    orbit = min(_ORBIT, (high - low) / 2)
    angle = 2 * np.pi * thing.phase + thing.heading * thing.speed / orbit * times
    return SIDE / 2 + orbit * np.cos(angle), SIDE / 2 + orbit * np.sin(angle)


def _drifts(thing: Thing, times: Times) -> Coordinates:
    step = thing.heading * thing.speed * times
    return (
        _to_and_fro(thing.x + 0.8 * step, _span(thing)),
        _to_and_fro(thing.y + 0.6 * step, _span(thing)),
    )


_LAWS: Mapping[Motion, Callable[[Thing, Times], Coordinates]] = {
    "slides": _slides,
    "moves": _moves,
    "bounces": _bounces,
    "circles": _circles,
    "drifts": _drifts,
}
