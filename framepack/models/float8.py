"""Matrices of blocks as float8 (e4m3, a scale for each output row): half the bytes of bf16.

Stored so, they become what is computed with for the time of a run; or products themselves run in
float8 (`multiply`), where the device has a kernel for it, twice as fast as in bf16. Modulations,
norms, biases and all around the blocks never become float8: they are few and sensitive to rounding.
Lossy, so whatever uses it says so in the engine's fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from framepack.errors import InvalidRequest

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SCALE_BYTES = 4
"""Of each row."""

_MULTIPLE = 16
"""Of both sides of a matrix, as the kernels want it."""

KERNEL_ERROR = 0.01
"""A kernel's distance from its emulation, relative: the rounding of bf16 is well below it."""


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


def fits(weight: Tensor) -> bool:
    """Whether kernels take a matrix of this shape."""
    return all(side % _MULTIPLE == 0 for side in weight.shape)


def multiply(
    x: Float[Tensor, "*axes i"], weight: Tensor, scale: Tensor
) -> Float[Tensor, "*axes o"]:
    """A product with both sides in float8, x rounded row by row; summed in fp32.

    There is no other way in it than the float8 kernel: where the device has none, PyTorch raises.

    Args:
        x: In the dtype of the result.
        weight: (o, i) e4m3, see `to_float8`.
        scale: (o, 1).
    """
    rows, row_scale = to_float8(x.reshape(-1, x.shape[-1]))
    # On a GPU, kernels with a scale for each row write bf16 alone.
    out_dtype = torch.bfloat16 if x.is_cuda else x.dtype
    out = torch._scaled_mm(
        rows, weight.t(), scale_a=row_scale, scale_b=scale.t(), out_dtype=out_dtype
    )
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def emulated(x: Float[Tensor, "n i"], weight: Tensor, scale: Tensor) -> Float[Tensor, "n o"]:
    """What `multiply` should give, in fp32 on any device."""
    rows, row_scale = to_float8(x)
    return (rows.float() * row_scale) @ (weight.float() * scale).t()


class CountedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the float8 kernel's calls while it is active: did it really run?"""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count, and go on."""
        float8 = func is torch.ops.aten._scaled_mm.default and args[0].dtype.itemsize == 1
        self.count += float8
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def require_kernel(device: torch.device) -> None:
    """Run the float8 kernel once and compare it with its emulation.

    Raises:
        InvalidRequest: The device has none, or it computes something else.
    """
    generator = torch.Generator().manual_seed(0)
    x, matrix = (torch.randn(n, 64, generator=generator).to(device) for n in (32, 48))
    weight, scale = to_float8(matrix)
    try:
        with CountedProducts() as products:
            found = multiply(x, weight, scale)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidRequest(
            "placement", f"+float8mm: {device} has no float8 kernel ({reason}); use +float8"
        ) from error
    expected = emulated(x, weight, scale)
    away = float((found.float() - expected).norm() / expected.norm())
    if products.count != 1 or not away < KERNEL_ERROR:
        raise InvalidRequest(
            "placement",
            f"+float8mm: the float8 kernel of {device} is {away:.3f} from its emulation, "
            f"at most {KERNEL_ERROR} is rounding; use +float8",
        )
