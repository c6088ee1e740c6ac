"""One projection per packing kernel (section 3.1 "independent patchifying parameters").

The released checkpoints hold three, under the names `projection_name` gives. A kernel that a
checkpoint has not is initialised by `interpolate_projection`: repeating the base weights and
dividing by how often makes it equal to the base projection of average-pooled latents, a sane start
for training.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from framepack.packing.rope import pad_to_multiple
from framepack.packing.schedule import BASE_KERNEL, Kernel
from framepack.types import Latents, Tokens

RELEASED_KERNELS = (Kernel(1, 2, 2), Kernel(2, 4, 4), Kernel(4, 8, 8))


def projection_name(kernel: Kernel) -> str:
    """The released name of a kernel's projection; ``k1`` is ``proj``, ``k2`` is ``proj_2x``."""
    if kernel == BASE_KERNEL:
        return "proj"
    t, h, w = kernel
    return f"proj_{t}x" if h == w == 2 * t else f"proj_{t}x{h}x{w}"


class ContextPatchify(nn.Module):
    """History latents to tokens, one Conv3d per kernel, kernel = stride."""

    def __init__(self, channels: int, width: int, kernels: Iterable[Kernel]) -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        for kernel in self.kernels:
            self.add_module(projection_name(kernel), nn.Conv3d(channels, width, kernel, kernel))

    def forward(self, latents: Latents, kernel: Kernel) -> Tokens:
        """Tokens of one level, (t, h, w) row-major.

        Raises:
            KeyError: There is no projection for this kernel.
        """
        if kernel not in self.kernels:
            raise KeyError(f"no projection for kernel {kernel}")
        projection = self.get_submodule(projection_name(kernel))
        tokens: Tensor = projection(pad_to_multiple(latents, kernel))
        return rearrange(tokens, "b d t h w -> b (t h w) d")


def interpolate_projection(
    base: Float[Tensor, "d c 1 2 2"], kernel: Kernel
) -> Float[Tensor, "d c t h w"]:
    """Weights of a larger kernel from the base kernel's."""
    repeats = [k // b for k, b in zip(kernel, BASE_KERNEL, strict=True)]
    tiled = base.repeat(1, 1, *repeats)
    return tiled / torch.tensor(repeats).prod().to(tiled)
