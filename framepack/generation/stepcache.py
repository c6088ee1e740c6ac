"""Step caches skip the transformer's blocks in steps where they would change little. Lossy.

A cache object holds the state of one section and one guidance branch and is thrown away with it:
state on the shared model leaks between sections and, with real classifier-free guidance, between
branches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from framepack.models.base import Blocks, StepCache
from framepack.types import Tokens

StepCacheFactory = Callable[[int], StepCache]
"""Number of steps to a fresh cache."""

POLYNOMIAL = (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896)
"""Relative change of the signal to expected change of the output, highest power first
(official)."""


def rescale(change: float) -> float:
    """Evaluate `POLYNOMIAL`."""
    value = 0.0
    for coefficient in POLYNOMIAL:
        value = value * change + coefficient
    return value


@dataclass(frozen=True)
class TeaCacheSettings:
    """TeaCache as the official demo uses it; 0.10 skips about 4 steps in 10, 0.15 about half.

    Attributes:
        threshold: Accumulated expected change at which the blocks run again.
    """

    threshold: float = 0.15

    def __call__(self, steps: int) -> TeaCache:
        """A fresh cache for one section and branch."""
        return TeaCache(self.threshold, steps)


class TeaCache:
    """Runs the blocks when the accumulated change of their input reaches a threshold.

    The first and the last step always run. On a skip the target gets the residual of the last run.
    ``skipped`` counts skips.
    """

    def __init__(self, threshold: float, steps: int) -> None:
        self.threshold = threshold
        self.steps = steps
        self.skipped = 0
        self._step = 0
        self._accumulated = 0.0
        self._signal: Tokens | None = None
        self._residual: Tokens | None = None

    def __call__(self, target: Tokens, signal: Float[Tensor, "b s d"], blocks: Blocks) -> Tokens:
        """See `StepCache`."""
        run = self._must_run(signal)
        self._signal = signal
        self._step += 1
        if run or self._residual is None:
            out = blocks()
            self._residual = out - target
            return out
        self.skipped += 1
        return target + self._residual

    def _must_run(self, signal: Tokens) -> bool:
        if self._signal is None or self._step == self.steps - 1:
            self._accumulated = 0.0
            return True
        change = ((signal - self._signal).abs().mean() / self._signal.abs().mean()).item()
        self._accumulated += rescale(change)
        if self._accumulated < self.threshold:
            return False
        self._accumulated = 0.0
        return True
