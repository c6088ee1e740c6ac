"""Optimisers for transformers, by the name a configuration uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from framepack.models.float8 import is_matrix
from framepack.training.optional import imported
from framepack.training.run import PEAK

Optimizer = Literal["adamw", "adamw8bit", "muon"]

_MOMENTUM = 0.95
"""Of Muon, as its author has it."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How trained weights follow their gradients.

    Attributes:
        name: Which; see `make_optimizers`.
        rate: Peak learning rate.
        betas: Of AdamW.
        weight_decay: Of all.
    """

    name: Optimizer
    rate: float
    betas: tuple[float, float]
    weight_decay: float


def make_optimizers(
    settings: OptimizerSettings, trained: Mapping[str, nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """One or two optimisers over a transformer's trained parameters.

    ``adamw8bit`` holds both states of larger tensors in eight bits, blockwise scaled (Dettmers et
    al., 2022): two bytes a parameter instead of eight. ``muon`` orthogonalises the momentum of the
    blocks' matrices (Jordan et al., 2024), its updates scaled to AdamW's size so that one rate
    serves both (Liu et al., 2025), and leaves all other parameters to AdamW.

    Args:
        settings: Which, and its numbers.
        trained: Parameters by name.

    Raises:
        InvalidRequest: Its library is not installed.
    """
    if settings.name == "muon":
        matrices = {name: p for name, p in trained.items() if for_muon(name, p)}
        others = {name: p for name, p in trained.items() if name not in matrices}
        muon = torch.optim.Muon(
            [_group(settings, matrices)],
            momentum=_MOMENTUM,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, _adamw(settings, others)] if others else [muon]
    if settings.name == "adamw":
        return [_adamw(settings, trained)]
    library = imported("bitsandbytes", "optimizer", extra="train-8bit")
    made: torch.optim.Optimizer = library.optim.AdamW8bit(
        [_group(settings, trained)], betas=settings.betas, weight_decay=settings.weight_decay
    )
    return [made]


def for_muon(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix inside of a block; modulations, which start at 0, are not."""
    return "transformer_blocks." in name and is_matrix(name, parameter)


def _adamw(
    settings: OptimizerSettings, trained: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [_group(settings, trained)],
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _group(settings: OptimizerSettings, trained: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    return {"params": list(trained.values()), PEAK: settings.rate}
