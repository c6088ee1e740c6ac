"""Matrices of blocks as float8 (e4m3, a scale for each output row): half the bytes of bf16.

Modulations, norms, biases and all around the blocks never become float8: they are few and sensitive
to rounding. Lossy, so whatever uses it says so in the engine's fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SCALE_BYTES = 4
"""Of each row."""


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Of a block's tensors, its linear layers' weights but not its modulations'."""
    return parameter.ndim == 2 and "norm" not in name


def to_float8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (o, i) as e4m3 and a scale (o, 1) for each row, whose product it nearly is."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def from_float8(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix again, in the dtype that is computed with."""
    return weight.to(dtype).mul_(scale.to(dtype))


@torch.no_grad()
def round_to_float8(block: nn.Module) -> None:
    """Give a block's matrices the values that they would have if they were stored as float8."""
    for name, parameter in block.named_parameters():
        if is_matrix(name, parameter):
            parameter.data = from_float8(*to_float8(parameter), parameter.dtype)


def stored_bytes(block: nn.Module, each: Callable[[Tensor], int], *, float8: bool) -> int:
    """Bytes of a block's parameters as they are stored.

    Args:
        block: May be on the meta device.
        each: Bytes of a tensor that stays as it is.
        float8: Whether matrices become float8.
    """
    return sum(
        p.numel() + SCALE_BYTES * p.shape[0] if float8 and is_matrix(name, p) else each(p)
        for name, p in block.named_parameters()
    )
