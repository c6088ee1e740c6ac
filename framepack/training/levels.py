"""How noise levels are drawn in training: uniform or logit-normal, then shifted towards 1.

The logit-normal weighs the middle, where a velocity is hardest to tell (Esser et al., 2024); the
shift makes up for the many tokens of a video, which leave more of the picture visible at a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.generation.sigmas import shift_exponent


@dataclass(frozen=True)
class NoiseLevels:
    """A distribution over 0 .. 1.

    Attributes:
        distribution: Before the shift.
        mean: Of the logit, for the logit-normal.
        deviation: Likewise.
        shift: ``shift * u / (1 + (shift - 1) * u)``; ``sampling`` shifts as sampling does for that
            many target tokens.
        least: Levels are squeezed into ``least .. most`` last.
        most: Likewise.
        stratified: One example in each of as many equal shares as the batch has, so that a batch
            covers all levels; the loss varies less from step to step.
    """

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    deviation: float = 1.0
    shift: float | Literal["sampling"] = 2.0
    least: float = 0.0
    most: float = 1.0
    stratified: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.least < self.most <= 1.0:
            raise InvalidRequest("levels", f"{self.least} .. {self.most} is no part of 0 .. 1")
        positive = [self.deviation, *([self.shift] if isinstance(self.shift, float) else [])]
        if not all(0.0 < value < math.inf for value in positive) or not math.isfinite(self.mean):
            raise InvalidRequest(
                "levels", "deviation and shift must be greater than 0, mean finite"
            )

    def draw(
        self, count: int, generator: torch.Generator, target_tokens: int
    ) -> Float[Tensor, " b"]:
        """Levels of a batch.

        Args:
            count: Examples.
            generator: Of the step.
            target_tokens: Tokens of one example's target.
        """
        share = torch.rand(count, generator=generator)
        if self.stratified:
            order = torch.randperm(count, generator=generator)
            share = (order + share) / count
        if self.distribution == "logit_normal":
            share = torch.sigmoid(self.mean + self.deviation * torch.special.ndtri(share))
        shift = math.exp(shift_exponent(target_tokens)) if self.shift == "sampling" else self.shift
        return self.least + (self.most - self.least) * shifted(share, float(shift))


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards 1, as sampling moves its own."""
    return shift * uniform / (1 + (shift - 1) * uniform)
