"""Attention over a joint sequence."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Heads = Float[Tensor, "b n heads dim"]


def attend(
    query: Heads, key: Heads, value: Heads, mask: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b n d"]:
    """Softmax attention, heads joined.

    Args:
        query: (b, n, heads, dim).
        key: Likewise.
        value: Likewise.
        mask: True for keys that exist; None when all do, which keeps flash kernels possible.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=allowed
    )
    return out.transpose(1, 2).flatten(2)
