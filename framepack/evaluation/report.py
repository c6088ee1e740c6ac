"""Figures of an evaluation as JSON, or as a table for a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from framepack.evaluation.statistics import Figures
from framepack.evaluation.world import WorldEvaluation

ArmFigures = Mapping[str, Mapping[str, Figures]]


def as_json(evaluation: WorldEvaluation, figures: ArmFigures) -> str:
    """``arms.<name>.<metric>`` with what was asked for; unknown numbers are null."""
    content = {"evaluation": asdict(evaluation), "arms": figures}
    return json.dumps(_rounded(content), indent=2, allow_nan=False) + "\n"


def as_table(figures: ArmFigures) -> str:
    """A line for each arm and metric."""
    lines = [f"{'arm':<10} {'metric':<16} {'start':>8} {'end':>8} {'delta':>8} {'min':>8}  95 %"]
    for arm, metrics in figures.items():
        for metric, shown in metrics.items():
            whole = "mean" in shown
            keys = ("mean", "", "", "") if whole else ("start", "end", "delta", "min")
            numbers = " ".join(f"{_short(shown[key]) if key else '':>8}" for key in keys)
            interval = shown["ci95"]
            assert isinstance(interval, list)
            low, high = map(_short, interval)
            lines.append(f"{arm:<10} {metric:<16} {numbers}  {low} .. {high}")
    return "\n".join(lines) + "\n"


def _short(value: float | list[float]) -> str:
    assert not isinstance(value, list)
    return f"{value:.3g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
