"""How the thing of a video moves: how fast, by which law, and whether sections join smoothly."""

from __future__ import annotations

import numpy as np

from framepack.evaluation.appearance import Series, Video
from framepack.world.scene import SIDE, Motion

_STILL = 3.5
"""Range of a coordinate, in units, up to which it counts as constant."""

_ROUND = 0.12
"""Relative deviation of the distance from the middle, up to which a path is a circle."""

_STEADY = 0.35
"""Relative deviation of vertical speed, up to which it is steady between walls."""

_SMOOTH = 5


def mean_speed(x: Series, y: Series) -> float:
    """Mean distance between frames that both show the thing; 0 if there are none."""
    steps = np.hypot(np.diff(x), np.diff(y))
    steps = steps[np.isfinite(steps)]
    return float(steps.mean()) if len(steps) else 0.0


def classify_motion(x: Series, y: Series, pixels: int = 64) -> Motion | None:
    """The law of motion a path follows, or None if it stands still or is hardly ever seen."""
    seen = np.isfinite(x) & np.isfinite(y)
    if seen.sum() < 3 * _SMOOTH:
        return None
    scale = SIDE / pixels
    x, y = _smoothed(x[seen] * scale), _smoothed(y[seen] * scale)
    ranges = np.ptp(x) > _STILL, np.ptp(y) > _STILL
    if not any(ranges):
        return None
    distance = np.hypot(x - SIDE / 2, y - SIDE / 2)
    if distance.std() < _ROUND * distance.mean() and all(ranges):
        return "circles"
    if not all(ranges):
        return "slides" if ranges[0] else "moves"
    fall = np.abs(np.diff(y))
    # Turns at walls leave a few slow frames; the middle of the distribution tells.
    low, middle, high = np.quantile(fall, (0.2, 0.5, 0.8))
    return "drifts" if (high - low) < _STEADY * 2 * middle else "bounces"


def seam_ratio(frames: Video, window: int) -> float:
    """Mean change from frame to frame where sections join, over that at other latent joints.

    Args:
        frames: 1 + 4 k pixel frames.
        window: Latent frames a section.
    """
    values = frames.astype(np.float32)
    joints = np.arange(4, len(frames) - 1, 4)  # the last pixel frame of each latent frame but one
    change = np.array([np.abs(values[j + 1] - values[j]).mean() for j in joints])
    seams = (joints // 4) % window == 0
    if not seams.any() or not change[~seams].any():
        return float("nan")
    return float(change[seams].mean() / change[~seams].mean())


def _smoothed(values: Series) -> Series:
    return np.convolve(values, np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
