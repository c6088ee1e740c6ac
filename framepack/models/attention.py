"""Attention over a joint sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from framepack.types import JointMask

Heads = Float[Tensor, "b n heads dim"]
Keys = Float[Tensor, "b k heads dim"]

_SHORT = 1024
"""Tokens up to which scores are written out when training on a CPU."""


def attend(
    query: Heads, key: Keys, value: Keys, mask: JointMask | None = None
) -> Float[Tensor, "b n d"]:
    """Softmax attention, heads joined.

    Training short sequences on a CPU writes the scores out: PyTorch's fused backward pass is slow
    there, and a step of ``tiny`` gains a quarter. Generation always runs the fused kernel.

    Args:
        query: (b, n, heads, dim).
        key: Likewise.
        value: Likewise.
        mask: True for keys that exist, (b, n), or that a query may see, (b, q, n); None when all
            may, which keeps flash kernels possible.
    """
    allowed = mask
    if mask is not None:
        allowed = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    q, k, v = (states.transpose(1, 2) for states in (query, key, value))
    written_out = q.device.type == "cpu" and q.shape[2] <= _SHORT and torch.is_grad_enabled()
    if written_out:
        out = _attend_written_out(q, k, v, allowed)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return out.transpose(1, 2).flatten(2)


def block_causal(
    before: int, frames: int, tokens_per_frame: int, after: int, block: int
) -> Bool[Tensor, "n n"]:
    """Which tokens may see which, where the target is made block by block (CausVid).

    What the target is conditioned on, before and after it in the sequence, sees itself alone, so
    that nothing of a later block comes back through it; a block sees that, the blocks before it and
    itself.

    Args:
        before: Tokens of history.
        frames: Latent frames of the target.
        tokens_per_frame: Of the target.
        after: Tokens of the text stream.
        block: Latent frames of a block.
    """
    blocks = torch.arange(frames).repeat_interleave(tokens_per_frame) // block + 1
    order = F.pad(blocks, (before, after), value=0)
    return order[None, :] <= order[:, None]


def _attend_written_out(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    out: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return out
