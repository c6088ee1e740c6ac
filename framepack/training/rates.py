"""Learning rates as functions of the step, so that a run cut into slices is the uncut run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from framepack.errors import InvalidRequest
from framepack.training.limits import check_ranges


@dataclass(frozen=True)
class RateSchedule:
    """Warm-up, constant, decay.

    Attributes:
        steps: Length of the run.
        warmup: Steps of linear rise from zero.
        hold: Share of the run after which the decay begins.
        final: Share of the peak that is left at the end.
        decay: Shape of the descent.
    """

    steps: int
    warmup: int = 40
    hold: float = 0.35
    final: float = 0.03
    decay: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        check_ranges(self, "rates", steps=(1, math.inf), warmup=(0, math.inf), final=(0, 1))
        if not 0.0 <= self.hold < 1.0:
            raise InvalidRequest("rates.hold", f"must be at least 0 and below 1, not {self.hold:g}")

    def at(self, step: int) -> float:
        """Share of the peak rate for a step, counted from 0."""
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        along = min(1.0, max(0.0, (step / self.steps - self.hold) / (1 - self.hold)))
        fallen = along if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * along)
        return rising * (1 - (1 - self.final) * fallen)
