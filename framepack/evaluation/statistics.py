"""Figures of many videos: beginnings against ends, with bootstrap intervals over videos.

Drift is the paper's: the difference of a metric between the first and the last 15 % of a video,
without sign, since a video may be made from either end. It can be small because the beginning is
bad already, so beginning, end and difference are always stated together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from framepack.evaluation.appearance import Series

EDGE = 0.15
"""Share of a video that counts as its beginning, and as its end."""

_PARTS = 10
_RESAMPLES = 1000

Figures = dict[str, float | list[float]]


def summarise_series(videos: Sequence[Series]) -> Figures:
    """Figures of a metric that has a value for each frame.

    Returns:
        ``start`` and ``end``, means over the edges; ``delta``, their difference without sign;
        ``min``, the least mean of any tenth of the videos; ``ci95``, the interval of start - end.
    """
    table = np.stack(videos)
    edge = max(1, round(EDGE * table.shape[1]))
    start, end = _mean(table[:, :edge], axis=1), _mean(table[:, -edge:], axis=1)
    parts = [_mean(_mean(part, axis=1)) for part in np.array_split(table, _PARTS, axis=1)]
    return {
        "start": float(_mean(start)),
        "end": float(_mean(end)),
        "delta": abs(float(_mean(start) - _mean(end))),
        "min": float(np.fmin.reduce(parts)),
        "ci95": bootstrap_interval(start - end),
    }


def summarise_values(values: Sequence[float]) -> Figures:
    """Mean and interval of a metric that has one value for each video."""
    known = np.asarray(values, np.float64)
    return {"mean": float(_mean(known)), "ci95": bootstrap_interval(known)}


def bootstrap_interval(values: Series) -> list[float]:
    """The 95 % interval of the mean over videos, by resampling videos with a fixed seed."""
    known = values[np.isfinite(values)]
    if not len(known):
        return [float("nan"), float("nan")]
    drawn = np.random.default_rng(0).integers(len(known), size=(_RESAMPLES, len(known)))
    return [float(q) for q in np.quantile(known[drawn].mean(1), (0.025, 0.975))]


def _mean(values: Series, axis: int | None = None) -> Series:
    """Mean of what is known; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))
