"""How the thing of a video moves: how fast, by which law, and whether sections join smoothly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from framepack.evaluation.appearance import Series, Video
from framepack.world.motion import deviations
from framepack.world.scene import MOTIONS, SIDE, Motion

_SPAN = 8
"""Pixel frames over which a direction is taken: a mask's middle wavers from frame to frame."""

_MOVED = 1.0
"""Distance within so many frames, in units, from which on there is a direction."""

_NEAR = 15.0
"""Degrees between a direction and a law's, up to which it follows the law."""

_MOSTLY = 0.5
"""Share of the time from which on a path follows a law. Random walks reach it in one case of
thirty, with the right law in one of a hundred and fifty."""


def mean_speed(x: Series, y: Series) -> float:
    """Mean distance between frames that both show the thing; 0 if there are none."""
    steps = np.hypot(np.diff(x), np.diff(y))
    steps = steps[np.isfinite(steps)]
    return float(steps.mean()) if len(steps) else 0.0


def law_shares(x: Series, y: Series, radius: float, pixels: int = 64) -> dict[Motion, float]:
    """For each law of motion, the share of the time in which a path heads where it would lead.

    While a thing stands still or is not seen it heads nowhere.

    Args:
        x: Of the thing's centre, in pixels, one a frame; NaN where it is not seen.
        y: Likewise.
        radius: Of the thing, in units.
        pixels: Width of the picture.
    """
    path = (np.stack([x, y], axis=1) + 0.5) * (SIDE / pixels) - 0.5
    steps, positions = path[_SPAN:] - path[:-_SPAN], path[_SPAN // 2 : -_SPAN // 2]
    moving = np.hypot(*steps.T) > _MOVED  # false where either end is NaN
    moving &= np.isfinite(positions).all(axis=1)
    return {
        motion: float((deviations(motion, radius, positions[moving], steps[moving]) < _NEAR).sum())
        / max(len(steps), 1)
        for motion in MOTIONS
    }


def classify_motion(shares: Mapping[Motion, float]) -> Motion | None:
    """The law that a path follows for most of the time, or None."""
    law = max(shares, key=lambda motion: shares[motion])
    return law if shares[law] >= _MOSTLY else None


def seam_ratios(frames: Video, window: int) -> Series:
    """Change from frame to frame at each joint of sections, over the mean at other latent joints.

    Args:
        frames: 1 + 4 k pixel frames.
        window: Latent frames a section.

    Returns:
        One ratio a joint of sections, in order; NaN where nothing changes elsewhere.
    """
    values = frames.astype(np.float32)
    joints = np.arange(4, len(frames) - 1, 4)  # the last pixel frame of each latent frame but one
    change = np.array([np.abs(values[j + 1] - values[j]).mean() for j in joints])
    seams = (joints // 4) % window == 0
    if not seams.any() or not change[~seams].any():
        return np.full(seams.sum(), np.nan)
    return np.asarray(change[seams] / change[~seams].mean(), np.float64)
