"""Rotary phases of a packed context (section 3.1 "RoPE alignment").

A phase is a unit complex number for each pair of adjacent channels. A packed token stands for a
block of base tokens, and its phase is the *average* of theirs: cosine and sine averaged separately
and not normalised again, so a packed phase is shorter than one. Averaging angles would be wrong.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from framepack.packing.schedule import BASE_KERNEL, Kernel
from framepack.types import Positions

AxesDim = tuple[int, int, int]
"""Channels of a head that rotate with time, height and width; each even."""


def rotary_phases(
    positions: Positions, height: int, width: int, axes_dim: AxesDim, theta: float
) -> Complex[Tensor, "b t h w p"]:
    """Phases of base tokens.

    Args:
        positions: (b, t) positions on the time axis; any integers.
        height: Tokens down, at positions 0 .. height - 1.
        width: Tokens across, likewise.
        axes_dim: Channels for each axis.
        theta: Base of the frequencies (256 in the released models).

    Returns:
        (b, t, height, width, sum(axes_dim) / 2), complex64.
    """
    device = positions.device
    axes = (positions, torch.arange(height, device=device), torch.arange(width, device=device))
    t, y, x = (_angles(axis, dim, theta) for axis, dim in zip(axes, axes_dim, strict=True))
    batch, frames = positions.shape
    grid = (batch, frames, height, width, -1)
    angles = torch.cat(
        [
            t[:, :, None, None].expand(grid),
            y[None, None, :, None].expand(grid),
            x[None, None, None, :].expand(grid),
        ],
        dim=-1,
    )
    return torch.polar(torch.ones_like(angles), angles)


def _angles(axis: Tensor, dim: int, theta: float) -> Float[Tensor, "... p"]:
    exponents = torch.arange(0, dim, 2, device=axis.device, dtype=torch.float32) / dim
    return axis.float()[..., None] * (1.0 / theta**exponents)


def pool_phases(
    phases: Complex[Tensor, "b t h w p"], kernel: Kernel
) -> Complex[Tensor, "b t2 h2 w2 p"]:
    """Average the phases of the base tokens that a kernel packs into one.

    The far edges are repeated until the kernel fits, as they are for the latents.
    """
    factors = [k // base for k, base in zip(kernel, BASE_KERNEL, strict=True)]
    if factors == [1, 1, 1]:
        return phases
    pairs = phases.shape[-1]
    planes = torch.cat([phases.real, phases.imag], dim=-1).movedim(-1, 1)
    padded = pad_to_multiple(planes, factors)
    pooled = F.avg_pool3d(padded, factors).movedim(1, -1)
    return torch.complex(pooled[..., :pairs].contiguous(), pooled[..., pairs:].contiguous())


def packed_phases(
    phases: Complex[Tensor, "b t h w p"], kernel: Kernel, pooled: Kernel | None = None
) -> Complex[Tensor, "b n p"]:
    """Phases of a level's tokens, (t, h, w) row-major.

    Args:
        phases: Of base tokens.
        kernel: Of the level.
        pooled: How many latent pixels were averaged into each one the kernel sees; None for none.
            Such a token may cover more than there is of the frame, and its phase is the mean of
            what there is: repeating the edge that far would move the token to the edge.
    """
    if pooled is None:
        return pool_phases(phases, kernel).flatten(1, 3)
    pairs = phases.shape[-1]
    planes = torch.cat([phases.real, phases.imag], dim=-1).movedim(-1, 1)
    planes = pad_to_multiple(planes, [kernel.t, 1, 1])
    spatial = [
        min(k * p // base, size)
        for k, p, base, size in zip(
            kernel[1:], pooled[1:], BASE_KERNEL[1:], planes.shape[3:], strict=True
        )
    ]
    mean = F.avg_pool3d(planes, [kernel.t, *spatial], ceil_mode=True).movedim(1, -1).flatten(1, 3)
    return torch.complex(mean[..., :pairs].contiguous(), mean[..., pairs:].contiguous())


def pad_to_multiple(
    grid: Float[Tensor, "b c t h w"], multiple: list[int] | Kernel
) -> Float[Tensor, "b c t2 h2 w2"]:
    """Repeat the last frame, row and column until every side is a multiple."""
    missing = [-size % m for size, m in zip(grid.shape[2:], multiple, strict=True)]
    if not any(missing):
        return grid
    t, h, w = missing
    return F.pad(grid, (0, w, 0, h, 0, t), mode="replicate")


def rotate(
    states: Float[Tensor, "b n heads dim"], phases: Complex[Tensor, "b n p"]
) -> Float[Tensor, "b n heads dim"]:
    """Turn adjacent channel pairs by their phases, in fp32, and return the dtype given."""
    pairs = torch.view_as_complex(states.float().reshape(*states.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * phases[:, :, None]).flatten(-2).to(states.dtype)
