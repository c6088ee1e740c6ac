"""One projection per packing kernel (section 3.1 "independent patchifying parameters").

The released checkpoints hold three, under the names `projection_name` gives. A kernel that a
checkpoint has not is initialised by `interpolate_projection`: spreading each base weight over a
block and dividing by the block's size makes it equal to the base projection of average-pooled
latents, a sane start for training.

No projection is larger than `LARGEST_PROJECTED`: a kernel beyond it, such as k16, averages the
latents first and goes through the projection of what is left of it, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from framepack.packing.rope import pad_to_multiple
from framepack.packing.schedule import BASE_KERNEL, Kernel
from framepack.types import Latents, Tokens

RELEASED_KERNELS = (Kernel(1, 2, 2), Kernel(2, 4, 4), Kernel(4, 8, 8))

LARGEST_PROJECTED = Kernel(8, 16, 16)


def pooled_first(kernel: Kernel) -> tuple[Kernel, Kernel]:
    """Split a kernel into what is averaged first and what is projected: k16 into (2,2,2) and k8.

    Raises:
        ValueError: A side beyond `LARGEST_PROJECTED` is no multiple of it.
    """
    pool = [max(1, -(-k // most)) for k, most in zip(kernel, LARGEST_PROJECTED, strict=True)]
    if any(k % p for k, p in zip(kernel, pool, strict=True)):
        raise ValueError(f"kernel {kernel} cannot be averaged down to {LARGEST_PROJECTED}")
    return Kernel(*pool), Kernel(*(k // p for k, p in zip(kernel, pool, strict=True)))


def projection_name(kernel: Kernel) -> str:
    """The released name of a kernel's projection; ``k1`` is ``proj``, ``k2`` is ``proj_2x``."""
    if kernel == BASE_KERNEL:
        return "proj"
    t, h, w = kernel
    return f"proj_{t}x" if h == w == 2 * t else f"proj_{t}x{h}x{w}"


class ContextPatchify(nn.Module):
    """History latents to tokens, one Conv3d per kernel, kernel = stride.

    Kernels beyond `LARGEST_PROJECTED` share the projection that they are averaged down to.
    """

    def __init__(self, channels: int, width: int, kernels: Iterable[Kernel]) -> None:
        super().__init__()
        self.kernels = tuple(dict.fromkeys(pooled_first(kernel)[1] for kernel in kernels))
        for kernel in self.kernels:
            self.add_module(projection_name(kernel), nn.Conv3d(channels, width, kernel, kernel))

    def forward(self, latents: Latents, kernel: Kernel) -> Tokens:
        """Tokens of one level, (t, h, w) row-major.

        Raises:
            KeyError: There is no projection for this kernel.
        """
        return patchify(latents, kernel, self._projection)

    def _projection(self, kernel: Kernel) -> nn.Module:
        if kernel not in self.kernels:
            raise KeyError(f"no projection for kernel {kernel}")
        return self.get_submodule(projection_name(kernel))


def patchify(latents: Latents, kernel: Kernel, projection: Callable[[Kernel], nn.Module]) -> Tokens:
    """Tokens of one level, (t, h, w) row-major.

    Args:
        latents: Padded at the far edges until the kernel fits.
        kernel: The level's.
        projection: The Conv3d of a kernel that `pooled_first` leaves to be projected.
    """
    pool, projected = pooled_first(kernel)
    padded = pad_to_multiple(latents, kernel)
    if pool != (1, 1, 1):
        padded = F.avg_pool3d(padded, pool)
    tokens: Tensor = projection(projected)(padded)
    return rearrange(tokens, "b d t h w -> b (t h w) d")


def interpolate_projection(
    base: Float[Tensor, "d c 1 2 2"], kernel: Kernel
) -> Float[Tensor, "d c t h w"]:
    """Weights of a larger kernel from the base kernel's, by nearest-neighbour interpolation.

    Each base weight is spread over the block that the larger kernel sees in its place. The official
    helper (unused at inference) lays copies of the base kernel side by side instead, which answers
    alike on a constant field only.
    """
    spread = base
    for axis, (size, base_size) in enumerate(zip(kernel, BASE_KERNEL, strict=True), start=2):
        spread = spread.repeat_interleave(size // base_size, dim=axis)
    return spread * (BASE_KERNEL.volume / kernel.volume)
