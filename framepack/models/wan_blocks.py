"""The blocks of Wan 2.1, under their released names, over a sequence that begins with history.

A block is self-attention over history and target, cross-attention to the text, feed-forward; the
first and the last are modulated by the timestep. Helios, which is Wan with packed history, adds
three switches, all exact no-ops without history: history is modulated as at timestep 0, text is
read by the target alone, and history's keys have a learned gain.

Norms, modulation and residual sums are computed in fp32 whatever the weights' dtype, as in the
checkpoints' training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from framepack.models.attention import Heads, attend
from framepack.models.blocks import EPS, HeadNorm, gelu, modulate
from framepack.models.embedding import FeedForward
from framepack.packing.rope import rotate
from framepack.types import JointMask, Phases, ReadTokens, TextTokens, Tokens

MAX_GAIN = 10.0
"""Upper bound of the history keys' gain."""

GainMode = Literal["scalar", "per_head"]

Vectors = Float[Tensor, "b groups chunks d"]
"""Modulation: one group for all tokens, or history's and then the target's."""


@dataclass(frozen=True)
class BlockSwitches:
    """What Helios adds to a block.

    Attributes:
        text_for_target_only: History does not read the text.
        history_gain: Shape of the gain of history's keys; None for none.
    """

    text_for_target_only: bool = False
    history_gain: GainMode | None = None


class WanAttention(nn.Module):
    """Attention with biases and norms of queries and keys over all heads at once."""

    def __init__(self, width: int, heads: int, history_gain: GainMode | None = None) -> None:
        super().__init__()
        self.heads = heads
        for name in ("to_q", "to_k", "to_v"):
            self.add_module(name, nn.Linear(width, width))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = HeadNorm(width)
        self.norm_k = HeadNorm(width)
        self.history_key_scale: nn.Parameter | None = None
        if history_gain is not None:
            size = heads if history_gain == "per_head" else 1
            self.history_key_scale = nn.Parameter(torch.ones(size))

    def itself(self, x: Tokens, phases: Phases, border: int, first_read: int) -> ReadTokens:
        """Self-attention.

        Args:
            x: History, then target.
            phases: Of the same tokens.
            border: Number of history tokens.
            first_read: Tokens before it are seen, but nothing is computed for them.
        """
        query = rotate(self._query(x[:, first_read:]), phases[:, first_read:])
        key, value = self._key_value(x)
        key = self._gain(rotate(key, phases), border)
        return self._out(attend(query, key, value))

    def text(self, x: Tokens, text: TextTokens, mask: JointMask | None) -> Tokens:
        """Cross-attention."""
        return self._out(attend(self._query(x), *self._key_value(text), mask))

    def _query(self, x: Tokens) -> Heads:
        return self._split(self.norm_q(self.get_submodule("to_q")(x)))

    def _key_value(self, x: Tokens) -> tuple[Heads, Heads]:
        key = self._split(self.norm_k(self.get_submodule("to_k")(x)))
        return key, self._split(self.get_submodule("to_v")(x))

    def _split(self, x: Tokens) -> Heads:
        return rearrange(x, "b n (heads dim) -> b n heads dim", heads=self.heads)

    def _gain(self, key: Heads, border: int) -> Heads:
        if self.history_key_scale is None or border == 0:
            return key
        gain = 1 + torch.sigmoid(self.history_key_scale) * (MAX_GAIN - 1)
        history = (key[:, :border] * gain[:, None]).to(key.dtype)
        return torch.cat([history, key[:, border:]], dim=1)

    def _out(self, x: Tokens) -> Tokens:
        out: Tensor = self.to_out[0](x)
        return out


class WanBlock(nn.Module):
    """One of the 40 (Wan 14B) or 30 (1.3B) blocks."""

    def __init__(self, width: int, heads: int, hidden: int, switches: BlockSwitches) -> None:
        super().__init__()
        self.switches = switches
        self.attn1 = WanAttention(width, heads, switches.history_gain)
        self.attn2 = WanAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.ffn = FeedForward(width, hidden, gelu)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(
        self,
        x: Tokens,
        text: TextStream,
        modulation: Vectors,
        phases: Phases,
        border: int,
        first_read: int = 0,
    ) -> ReadTokens:
        """The tokens from ``first_read`` on after the block.

        Args:
            x: History, then target.
            text: What cross-attention reads.
            modulation: Six vectors a group, before the block's own table is added.
            phases: Rotary phases of the tokens.
            border: Number of history tokens.
            first_read: 0, or ``border`` where nobody reads the history afterwards.
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self._vectors(modulation)
        seen = by_group(modulate_fp32, x, border, shift, scale)
        attended = self.attn1.itself(seen, phases, border, first_read)
        border -= first_read
        x = by_group(add_gated, x[:, first_read:], border, gate, beside=attended)
        x = self._read_text(x, text, border)
        inner = by_group(modulate_fp32, x, border, ff_shift, ff_scale)
        return by_group(add_gated, x, border, ff_gate, beside=self.ffn(inner))

    def first_input(self, x: Tokens, modulation: Vectors, border: int) -> Tokens:
        """What self-attention sees: the signal of step caches, in the first block."""
        shift, scale, *_ = self._vectors(modulation)
        return by_group(modulate_fp32, x, border, shift, scale)

    def _vectors(self, modulation: Vectors) -> tuple[Tensor, ...]:
        return (self.scale_shift_table[:, None] + modulation.float()).unbind(2)

    def _read_text(self, x: Tokens, text: TextStream, border: int) -> Tokens:
        unread = border if self.switches.text_for_target_only else 0
        reading = x[:, unread:]
        norm = self.norm2
        normed = F.layer_norm(
            reading.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), EPS
        )
        read = reading + self.attn2.text(normed.to(x.dtype), text.tokens, text.mask)
        return torch.cat([x[:, :unread], read], dim=1) if unread else read


@dataclass(frozen=True)
class TextStream:
    """Projected text tokens.

    Attributes:
        tokens: (b, l, d).
        mask: True where a token exists; None where all do.
    """

    tokens: Tokens
    mask: JointMask | None


def modulate_fp32(x: Tokens, shift: Tensor, scale: Tensor) -> Tokens:
    """Layer norm without parameters, scale and shift in fp32; returns the dtype given."""
    return modulate(x.float(), shift.float(), scale.float()).to(x.dtype)


def add_gated(x: Tokens, gate: Tensor, beside: Tokens) -> Tokens:
    """The residual sum in fp32; returns the dtype given."""
    return torch.addcmul(x.float(), beside.float(), gate.float()).to(x.dtype)


def by_group(
    function: Callable[..., Tokens],
    x: Tokens,
    border: int,
    *vectors: Tensor,
    beside: Tokens | None = None,
) -> Tokens:
    """Apply ``function`` to history and target, each with its own vectors, or to all with the same.

    Args:
        function: Of tokens, vectors and, if given, the tokens beside them.
        x: History, then target.
        border: Number of history tokens.
        vectors: (b, groups, d).
        beside: Tokens like ``x``.
    """
    if vectors[0].shape[1] == 1:
        return function(x, *vectors, *(() if beside is None else (beside,)))
    parts = []
    for group, part in enumerate((slice(0, border), slice(border, None))):
        own = [v[:, group : group + 1] for v in vectors]
        parts.append(function(x[:, part], *own, *(() if beside is None else (beside[:, part],))))
    return torch.cat(parts, dim=1)
