"""One projection per packing kernel (section 3.1 "independent patchifying parameters").

The released checkpoints hold three, under the names `projection_name` gives. A kernel that a
checkpoint has not is initialised by `interpolate_projection`: spreading each base weight over a
block and dividing by the block's size makes it equal to the base projection of average-pooled
latents, a sane start for training, and what `InterpolatedProjections` gives to a model that is
asked for such a kernel untrained.

No projection is larger than `LARGEST_PROJECTED`: a kernel beyond it, such as k16, averages the
latents first and goes through the projection of what is left of it, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from framepack.packing.rope import pad_to_multiple
from framepack.packing.schedule import BASE_KERNEL, Kernel, has_projection, pooled_first
from framepack.types import Latents, Tokens

RELEASED_KERNELS = (Kernel(1, 2, 2), Kernel(2, 4, 4), Kernel(4, 8, 8))


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
        self._others = InterpolatedProjections()

    def forward(self, latents: Latents, kernel: Kernel) -> Tokens:
        """Tokens of one level, (t, h, w) row-major.

        Raises:
            KeyError: There is no projection for this kernel, nor can there be one.
        """
        return patchify(latents, kernel, self._projection)

    def _projection(self, kernel: Kernel) -> nn.Module:
        if kernel in self.kernels:
            return self.get_submodule(projection_name(kernel))
        return self._others(self.get_submodule(projection_name(BASE_KERNEL)), kernel)


class InterpolatedProjections:
    """Projections of kernels that a checkpoint has none for, made when asked for and then kept.

    They are no part of the model: nothing of them is saved or trained. A model that is to learn a
    kernel has it in its configuration.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Kernel, torch.dtype, torch.device], nn.Conv3d] = {}

    def __call__(self, base: nn.Module, kernel: Kernel) -> nn.Conv3d:
        """The projection of a kernel.

        Args:
            base: The Conv3d of `BASE_KERNEL`, with the weights it will keep.
            kernel: That `pooled_first` leaves to be projected.

        Raises:
            KeyError: The kernel is no multiple of the base kernel.
        """
        if not has_projection(kernel):
            raise KeyError(f"no projection for kernel {kernel}")
        assert isinstance(base, nn.Conv3d)
        key = kernel, base.weight.dtype, base.weight.device
        if key not in self._made:
            weight = interpolate_projection(base.weight.detach(), kernel)
            # Made without memory first: initial values would draw from the global generator.
            made = nn.Conv3d(weight.shape[1], len(weight), kernel, kernel, device="meta")
            made.weight = nn.Parameter(weight, requires_grad=False)
            made.bias = base.bias
            self._made[key] = made
        return self._made[key]


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
