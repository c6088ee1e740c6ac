"""Exponential moving average of weights: what is evaluated and shipped."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """A second model that follows the first. Buffers are copied once, at the start."""

    def __init__(self, model: M, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Follow after a step, counted from 0; faster at first, when the start is far off."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
            own.lerp_(new, 1 - decay)
