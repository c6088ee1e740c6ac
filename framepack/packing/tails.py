"""What is left of frames beyond a pack: appended (``ta``) or compressed (``tc``), section 3.1.

Either gives latents of a few pixels that the kernel of the neighbouring level turns into tokens;
its projection sees the edge repeated until the kernel fits. On such a constant field an
interpolated kernel answers as the base kernel does, so no weights are needed for tails alone. Token
counts are `framepack.packing.accounting.tail_tokens`.

The paper leaves the positions of tail tokens open. An appended frame keeps its own, and the phases
are averaged as everywhere. A compressed tail stands at its middle frame: averaging the phases of a
long tail would cancel them and leave a token that is nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from framepack.packing.accounting import TAIL_POOL
from framepack.packing.rope import pad_to_multiple
from framepack.types import Latents


def append_tail(tail: Latents) -> Float[Tensor, "b c t _ _"]:
    """Each tail frame averaged over blocks of (1, 32, 32), edges repeated first.

    Args:
        tail: (b, c, n, h, w) the frames beyond the pack, n >= 1.

    Returns:
        (b, c, n, ceil(h / 32), ceil(w / 32)).
    """
    return F.avg_pool3d(pad_to_multiple(tail, TAIL_POOL), TAIL_POOL)


def compress_tail(tail: Latents) -> Float[Tensor, "b c 1 1 1"]:
    """The average of all tail frames and pixels, (b, c, 1, 1, 1): one token, however long."""
    return tail.mean(dim=(2, 3, 4), keepdim=True)


def middle_position(positions: Sequence[int]) -> int:
    """The RoPE position of a compressed tail."""
    return positions[len(positions) // 2]
