"""LoRA by PEFT: where the factors go, and out again as what `framepack.models.lora` writes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from framepack.errors import InvalidRequest
from framepack.models.lora import Factors, Lora, weight_shapes
from framepack.training.optional import imported

Dialect = Literal["diffusers", "kohya", "original"]

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"
_READ_DIRECTLY = ("proj_out",)
"""Modules whose weight the model's code reads past the module, so that an adapter has no effect."""


@dataclass(frozen=True)
class LoraTraining:
    """Which modules get factors, and of which kind.

    Attributes:
        rank: Of the change of each weight.
        alpha: The change is scaled by ``alpha / rank``.
        dropout: Share of a module's inputs dropped before the factors.
        include: Regular expressions; a module whose name contains one of them is chosen ...
        exclude: ... unless it contains one of these. As in the common trainers, the default is all
            of the blocks' linear layers but their modulations.
        dialects: In which the file is exported: ``lora.safetensors`` in the first one, each further
            one as ``lora.NAME.safetensors``.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    include: tuple[str, ...] = (r"^(single_)?transformer_blocks\.",)
    exclude: tuple[str, ...] = (r"norm",)
    dialects: tuple[Dialect, ...] = ("diffusers",)

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.dialects:
            raise InvalidRequest("lora", "rank must be at least 1, and one dialect be named")
        if not 0.0 < self.alpha < math.inf or not 0.0 <= self.dropout < 1.0:
            raise InvalidRequest("lora", "alpha must be above 0, dropout at least 0 and below 1")
        if len(set(self.dialects)) < len(self.dialects):
            raise InvalidRequest("lora.dialects", "one is named twice")
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidRequest(
                    "lora", f"{pattern!r} is no regular expression: {error}"
                ) from None

    def chosen(self, model: nn.Module) -> list[str]:
        """Names of the modules that get factors.

        Raises:
            InvalidRequest: There is none.
        """
        names = [name for name in weight_shapes(model) if name not in _READ_DIRECTLY]
        chosen = [name for name in names if self._matches(name)]
        if not chosen:
            raise InvalidRequest(
                "lora",
                f"include {list(self.include)} without exclude {list(self.exclude)} fits none of "
                f"{len(names)} modules, such as {names[0]} and {names[-1]}",
            )
        return chosen

    def _matches(self, name: str) -> bool:
        return any(re.search(p, name) for p in self.include) and not any(
            re.search(p, name) for p in self.exclude
        )


def add_lora(model: nn.Module, settings: LoraTraining, seed: int) -> None:
    """Freeze a model and put factors beside its chosen modules, in place; they change nothing yet.

    Factors are fp32 whatever the model is.

    Raises:
        InvalidRequest: No module is chosen, or PEFT is not installed.
    """
    peft = imported("peft", "lora")
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.chosen(model),
    )
    model.requires_grad_(requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if name.endswith((_DOWN, _UP)):
            parameter.data = parameter.data.float()
            parameter.requires_grad_()


def collect_lora(
    weights: Mapping[str, Tensor], settings: LoraTraining, metadata: Mapping[str, str]
) -> Lora:
    """A LoRA from the trained weights of a model with factors, alpha folded in."""
    scale = settings.alpha / settings.rank
    factors = {
        name.removesuffix(_DOWN): Factors(
            down, weights[name.removesuffix(_DOWN) + _UP].flatten(1) * scale
        )
        for name, down in weights.items()
        if name.endswith(_DOWN)
    }
    return Lora(factors, metadata)
