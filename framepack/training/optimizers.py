"""Optimisers for transformers, by the name a configuration uses."""

from __future__ import annotations

from typing import Any, Literal

import torch

from framepack.training.optional import imported

Optimizer = Literal["adamw", "adamw8bit"]


def make_optimizer(
    name: Optimizer, group: dict[str, Any], betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over one group of parameters.

    ``adamw8bit`` holds both states of larger tensors in eight bits, blockwise scaled (Dettmers et
    al., 2022): two bytes a parameter instead of eight.

    Raises:
        InvalidRequest: Its library is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW([group], betas=betas, weight_decay=weight_decay, fused=True)
    library = imported("bitsandbytes", "optimizer", extra="train-8bit")
    made: torch.optim.Optimizer = library.optim.AdamW8bit(
        [group], betas=betas, weight_decay=weight_decay
    )
    return made
