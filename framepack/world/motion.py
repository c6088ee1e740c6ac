"""The laws of motion of the procedural world: where a thing's centre is at each pixel frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Float32

from framepack.world.scene import SIDE, Motion, Thing

Times = Float32[np.ndarray, " t"]
Coordinates = tuple[Times, Times]

_ORBIT = 16.0
_BOUNCE_HEIGHT = 0.75
_BOUNCE_ASIDE = 0.4
"""Speed sideways of a bouncing thing, of its mean speed up and down."""

_DRIFT = 0.8, 0.6
"""Direction of a drift; walls turn its signs."""

_SLACK = 2.0
"""Units by which a place may be measured wrongly."""


def centres(thing: Thing, times: Times) -> Float32[np.ndarray, "t 2"]:
    """(x, y) of a thing's centre in units, at times in pixel frames."""
    x, y = _LAWS[thing.motion](thing, times)
    return np.stack([x, y], axis=-1).astype(np.float32)


def deviations(
    motion: Motion,
    radius: float,
    positions: Float[np.ndarray, "t 2"],
    steps: Float[np.ndarray, "t 2"],
) -> Float[np.ndarray, " t"]:
    """How far the direction of each step is from where a law leads from there, in degrees.

    Every law fixes the direction of motion by the place alone, whatever the speed and the phase;
    walls and the sense of a circle turn its signs, which therefore do not count. NaN where the law
    never leads.

    Args:
        motion: The law.
        radius: Of the thing, in units.
        positions: (x, y) of its centre in units, in the middle of the steps.
        steps: Along the path, in units.
    """
    sideways, up = np.abs(steps).T
    if motion == "circles":
        # Along and away from the circle about the middle that goes through the place.
        arm = positions - SIDE / 2
        sideways = np.abs(arm[:, 0] * steps[:, 1] - arm[:, 1] * steps[:, 0])
        up = np.abs((arm * steps).sum(1))
    made = np.arctan2(up, sideways)
    return np.asarray(np.degrees(np.abs(made - _headings(motion, radius, positions[:, 1]))))


def _headings(motion: Motion, radius: float, y: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Angle between a law's direction and the level, or the circle."""
    if motion == "bounces":
        low, high = radius + 1, SIDE - 1 - radius
        height = _BOUNCE_HEIGHT * (high - low)
        fallen = np.clip((y - (high - height)) / height, 0, 1)
        fallen[y < high - height - _SLACK] = np.nan  # nothing that falls comes from up there
        return np.asarray(np.arctan2(2 * np.sqrt(fallen), _BOUNCE_ASIDE))
    level = {"slides": 0.0, "circles": 0.0, "moves": np.pi / 2}
    return np.full_like(y, level.get(motion, np.arctan2(_DRIFT[1], _DRIFT[0])))


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
    x = _to_and_fro(thing.x + _BOUNCE_ASIDE * thing.heading * thing.speed * times, (low, high))
    return x, high - 4 * height * along * (1 - along)


def _circles(thing: Thing, times: Times) -> Coordinates:
    low, high = _span(thing)
    orbit = min(_ORBIT, (high - low) / 2)
    angle = 2 * np.pi * thing.phase + thing.heading * thing.speed / orbit * times
    return SIDE / 2 + orbit * np.cos(angle), SIDE / 2 + orbit * np.sin(angle)


def _drifts(thing: Thing, times: Times) -> Coordinates:
    step = thing.heading * thing.speed * times
    return (
        _to_and_fro(thing.x + _DRIFT[0] * step, _span(thing)),
        _to_and_fro(thing.y + _DRIFT[1] * step, _span(thing)),
    )


_LAWS: Mapping[Motion, Callable[[Thing, Times], Coordinates]] = {
    "slides": _slides,
    "moves": _moves,
    "bounces": _bounces,
    "circles": _circles,
    "drifts": _drifts,
}
