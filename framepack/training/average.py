"""Exponential moving average of the trained weights: what is evaluated and shipped.

Only what is trained has an average. It lives beside the model and is put in its place while
something looks at it, so no second model is held: a LoRA's average is as small as the LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from framepack.training.processes import local


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Average:
    """Averages of a model's trained parameters; of this process's shards, if there are any."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._named = trained_parameters(model)
        self.values: dict[str, Tensor] = {
            name: local(p).detach().clone() for name, p in self._named.items()
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self._named.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow after a step, counted from 0; faster at first, when the start is far off."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._named.items():
            self.values[name].lerp_(local(parameter), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights while this lasts."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._named.items():
            trained = local(parameter).clone()
            local(parameter).copy_(self.values[name])
            self.values[name].copy_(trained)
