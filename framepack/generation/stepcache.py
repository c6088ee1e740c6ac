"""Step caches skip the transformer's blocks in steps where they would change little. Lossy.

A cache object holds the state of one section and one guidance branch and is thrown away with it:
state on the shared model leaks between sections and, with real classifier-free guidance, between
branches.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.errors import WeightsError
from framepack.models.base import Blocks, StepCache
from framepack.types import Tokens

Signal = Float[Tensor, "b m d"]
"""What the first block would see: history and target."""

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


@dataclass(frozen=True)
class MagCacheSettings:
    """MagCache (Ma et al. 2025): skips by how little the residual's magnitude was found to change.

    Attributes:
        ratios: Mean magnitude of each step's residual over the one before, as `Calibration` finds
            them; the first is 1. Another number of steps reads them at the same places.
        error: Accumulated distance of the magnitude from the last computed one at which the blocks
            run again.
        most: Steps in a row that may be skipped.
        retained: Share of the steps, at the beginning, that always run: they decide the picture.
    """

    ratios: tuple[float, ...]
    error: float = 0.06
    most: int = 2
    retained: float = 0.2

    def __call__(self, steps: int) -> MagCache:
        """A fresh cache for one section and branch."""
        return MagCache(self, steps)

    @classmethod
    def read(cls, path: Path, error: float, most: int) -> MagCacheSettings:
        """With the ratios of a file that `Calibration.write` made. Raises WeightsError."""
        try:
            ratios = tuple(map(float, json.loads(path.read_text())["ratios"]))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise WeightsError(f"{path} holds no ratios for MagCache: {problem}") from problem
        return cls(ratios, error, most)


class ResidualCache(ABC):
    """On a skip the target gets the residual of the last run. ``skipped`` counts skips."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.skipped = 0
        self.step = 0
        self._residual: Tokens | None = None

    def __call__(self, target: Tokens, signal: Signal, blocks: Blocks) -> Tokens:
        """See `StepCache`."""
        run = self.must_run(signal)
        self.step += 1
        if run or self._residual is None:
            out = blocks()
            self._residual = out - target
            return out
        self.skipped += 1
        return target + self._residual

    @abstractmethod
    def must_run(self, signal: Signal) -> bool:
        """Whether the blocks run in step number ``step``."""


class TeaCache(ResidualCache):
    """Runs the blocks when the accumulated change of their input reaches a threshold.

    The first and the last step always run.
    """

    def __init__(self, threshold: float, steps: int) -> None:
        super().__init__(steps)
        self.threshold = threshold
        self._accumulated = 0.0
        self._signal: Signal | None = None

    def must_run(self, signal: Signal) -> bool:
        """See `ResidualCache`."""
        before, self._signal = self._signal, signal
        if before is None or self.step == self.steps - 1:
            self._accumulated = 0.0
            return True
        change = ((signal - before).abs().mean() / before.abs().mean()).item()
        self._accumulated += rescale(change)
        if self._accumulated < self.threshold:
            return False
        self._accumulated = 0.0
        return True


class MagCache(ResidualCache):
    """See `MagCacheSettings`. Which steps run is known beforehand: nothing is read from the device.

    The first steps and the last one always run.
    """

    def __init__(self, settings: MagCacheSettings, steps: int) -> None:
        super().__init__(steps)
        self._settings = settings
        self._magnitude, self._error, self._in_a_row = 1.0, 0.0, 0

    def must_run(self, signal: Signal) -> bool:
        """See `ResidualCache`."""
        settings, ratios = self._settings, self._settings.ratios
        place = self.step * (len(ratios) - 1) / max(1, self.steps - 1)
        self._magnitude *= ratios[round(place)] ** ((len(ratios) - 1) / max(1, self.steps - 1))
        self._error += abs(1 - self._magnitude)
        self._in_a_row += 1
        kept = self.step >= settings.retained * self.steps and self.step < self.steps - 1
        if kept and self._error < settings.error and self._in_a_row <= settings.most:
            return False
        self._magnitude, self._error, self._in_a_row = 1.0, 0.0, 0
        return True


class Calibration:
    """Makes caches that skip nothing and remember how magnitudes change; for one preset."""

    def __init__(self) -> None:
        self._recorders: list[_Recorder] = []

    def __call__(self, steps: int) -> StepCache:
        """A recorder for one section and branch."""
        self._recorders.append(_Recorder(steps))
        return self._recorders[-1]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Means over all sections and branches, by step."""
        found = torch.tensor([recorder.ratios for recorder in self._recorders])
        return tuple(round(float(ratio), 5) for ratio in found.mean(0))

    def write(self, path: Path) -> None:
        """For `MagCacheSettings.read`."""
        document = {"ratios": self.ratios, "sections": len(self._recorders)}
        path.write_text(json.dumps(document) + "\n")


class _Recorder(ResidualCache):
    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.ratios: list[float] = []
        self._before: Tokens | None = None

    def __call__(self, target: Tokens, signal: Signal, blocks: Blocks) -> Tokens:
        out = super().__call__(target, signal, blocks)
        residual = out - target
        before = residual if self._before is None else self._before
        self.ratios.append((residual.norm(dim=-1) / before.norm(dim=-1)).mean().item())
        self._before = residual
        return out

    def must_run(self, signal: Signal) -> bool:
        return True
