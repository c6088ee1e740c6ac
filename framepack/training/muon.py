"""Muon: momentum whose every update has all singular values near one (Jordan et al., 2024).

For weight matrices only. It let the tiny autoencoder start from principal components without being
destroyed by the first steps, where Adam was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial that pulls singular values towards one."""


def orthogonalise(matrix: Tensor, iterations: int = 4) -> Tensor:
    """The nearest matrix with singular values about one, by Newton-Schulz iteration."""
    x: Tensor = matrix / (matrix.norm() + 1e-12)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    a, b, c = _QUINTIC
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, flattened to a matrix and orthogonalised.

    Args:
        groups: Parameters of two or more dimensions; all but the first are flattened.
        lr: Spectral norm of an update.
        momentum: Share of the old direction.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 4e-3, momentum: float = 0.9
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; a closure is not supported."""
        if closure is not None:
            raise ValueError("Muon evaluates no closure")
        for group in self.param_groups:
            momentum = group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
                ahead = parameter.grad.lerp(average, momentum)
                update = orthogonalise(ahead.flatten(1)).view_as(parameter)
                parameter.add_(update, alpha=-group["lr"])
