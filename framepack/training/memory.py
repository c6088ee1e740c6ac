"""Training a model larger than the memory: blocks recomputed, frozen weights stored elsewhere.

Three settings, one mechanism. A block runs under activation checkpointing: only its inputs are kept
and the backward pass runs it again. Whatever it needs for a run is put together at its beginning
and dropped at its end, twice a step. So its frozen weights may meanwhile be stored

- as float8 (e4m3, a scale for each output row), a quarter of fp32 and half of bf16, or
- on the host, copied to the device for each run (block swap).

Both need weights that do not change, that is, a LoRA's training. Modulations, biases and everything
outside the blocks never become float8: they are sensitive to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from framepack.errors import InvalidRequest
from framepack.models.float8 import from_float8, is_matrix, to_float8
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.training.limits import check_ranges

Storage = Literal["float32", "bfloat16", "float8"]


@dataclass(frozen=True)
class MemorySettings:
    """What is saved at the cost of time.

    Attributes:
        checkpointing: Recompute blocks in the backward pass.
        frozen: How weights that are not trained are stored.
        swapped_blocks: How many blocks (the last ones) have their frozen weights on the host.
    """

    checkpointing: bool = False
    frozen: Storage = "float32"
    swapped_blocks: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, "memory", swapped_blocks=(0, math.inf))

    @property
    def stores(self) -> bool:
        """Whether blocks' frozen weights are put together for each run."""
        return self.frozen == "float8" or self.swapped_blocks > 0


class StoredBlock:
    """Runs a block whose frozen weights are stored in another way than it computes with.

    It takes the place of the block's ``forward``; the block keeps its parameters and their names.
    """

    def __init__(self, block: nn.Module, device: torch.device, *, swapped: bool) -> None:
        """Take a block's frozen weights as they are.

        Args:
            block: Its forward pass is replaced.
            device: Where it computes.
            swapped: Whether frozen weights wait on the host.
        """
        self._forward, self._block = block.forward, block
        self._device, self._swapped = device, swapped
        self._scales: dict[str, Tensor] = {}
        self._running = False
        block.forward = self

    def store(self, storage: Storage) -> None:
        """Bring the frozen weights to where and how they are stored."""
        for name, parameter in self._block.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(self._device)
                continue
            data = parameter.data
            if storage == "float8" and is_matrix(name, parameter):
                data, scale = to_float8(data)
                self._scales[name] = scale.to(self._device)
            home = torch.device("cpu") if self._swapped else self._device
            pinned = self._swapped and self._device.type == "cuda"
            parameter.data = data.to(home).pin_memory() if pinned else data.to(home)

    def __call__(self, *inputs: Any) -> Any:
        """The block's output; recomputed in the backward pass."""
        if self._running:  # functional_call came back with the weights in place
            return self._forward(*inputs)
        if torch.is_grad_enabled():
            return checkpoint(self._run, *inputs, use_reentrant=False)
        return self._run(*inputs)

    def _run(self, *inputs: Any) -> Any:
        weights = {
            name: self._weight(name, p)
            for name, p in self._block.named_parameters()
            if not p.requires_grad and (self._swapped or name in self._scales)
        }
        self._running = True
        try:
            return functional_call(self._block, weights, inputs)
        finally:
            self._running = False

    def _weight(self, name: str, stored: Tensor) -> Tensor:
        moved = stored.detach().to(self._device, non_blocking=True)
        if name in self._scales:
            # In bf16, as everything frozen that is not float8 is stored then.
            return from_float8(moved, self._scales[name], torch.bfloat16)
        return moved


def blocks_of(model: PackedHunyuanVideo) -> Sequence[nn.Module]:
    """Double blocks, then single ones: as they run, and as they are swapped and sharded."""
    return (*model.transformer_blocks, *model.single_transformer_blocks)


def place(model: PackedHunyuanVideo, settings: MemorySettings, device: torch.device) -> None:
    """Bring a model whose trained parameters are marked to its device, stored as the settings say.

    Args:
        model: Anywhere; after this its blocks run as `StoredBlock`.
        settings: What to save.
        device: Where it computes.

    Raises:
        InvalidRequest: Weights that are trained cannot be stored this way.
    """
    blocks = blocks_of(model)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if settings.frozen != "float32" or settings.swapped_blocks:
        _check(settings, blocks, some_frozen=bool(frozen))
    if settings.frozen != "float32":
        for parameter in frozen:
            parameter.data = parameter.data.to(torch.bfloat16)
    first_swapped = len(blocks) - settings.swapped_blocks
    if settings.checkpointing or settings.stores:
        for number, block in enumerate(blocks):
            swapped = number >= first_swapped
            StoredBlock(block, device, swapped=swapped).store(settings.frozen)
    inside = {id(p) for block in blocks for p in block.parameters()} if settings.stores else set()
    for parameter in model.parameters():
        if id(parameter) not in inside:
            parameter.data = parameter.data.to(device)


def _check(settings: MemorySettings, blocks: Sequence[nn.Module], *, some_frozen: bool) -> None:
    if not some_frozen:
        raise InvalidRequest(
            "memory", "frozen and swapped_blocks need frozen weights: train a LoRA, or leave them"
        )
    if settings.swapped_blocks > len(blocks):
        raise InvalidRequest(
            "memory", f"{settings.swapped_blocks} swapped_blocks, but there are {len(blocks)}"
        )
