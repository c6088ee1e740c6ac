"""What a denoising step is conditioned on: time, guidance, pooled text, refined text."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from framepack.models.attention import attend
from framepack.types import TextMask, Tokens

FREQUENCIES = 256
Activation = Callable[[Tensor], Tensor]


class TwoLayers(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, inputs: int, width: int, activation: Activation = F.silu) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b d"]:
        out: Tensor = self.linear_2(self.activation(self.linear_1(x)))
        return out


def sinusoids(values: Float[Tensor, " b"]) -> Float[Tensor, "b 256"]:
    """Cosines then sines of the value at 128 geometric frequencies, in fp32."""
    half = FREQUENCIES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ConditionEmbedding(nn.Module):
    """Sum of the embeddings of timestep, guidance (if the model has one) and pooled text."""

    def __init__(self, pooled: int, width: int, *, guidance: bool) -> None:
        super().__init__()
        self.timestep_embedder = TwoLayers(FREQUENCIES, width)
        if guidance:
            self.guidance_embedder = TwoLayers(FREQUENCIES, width)
        self.text_embedder = TwoLayers(pooled, width)

    def forward(
        self,
        timestep: Float[Tensor, " b"],
        pooled: Float[Tensor, "b i"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b d"]:
        out: Tensor = self.timestep_embedder(sinusoids(timestep).to(pooled.dtype))
        if guidance is not None:
            out = out + self.guidance_embedder(sinusoids(guidance).to(pooled.dtype))
        return torch.add(out, self.text_embedder(pooled))


class RefinerAttention(nn.Module):
    """Plain self-attention with biases; no rotary phases, no norms of queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tokens, mask: TextMask | None) -> Tokens:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1))
            for project in (self.to_q, self.to_k, self.to_v)
        )
        out: Tensor = self.to_out[0](attend(q, k, v, mask))
        return out


class FeedForward(nn.Module):
    """Linear, activation, linear, under the released names ``net.0.proj`` and ``net.2``."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(width, hidden)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(hidden, width)])
        self.activation = activation

    def forward(self, x: Tokens) -> Tokens:
        project = self.net[0].get_submodule("proj")
        out: Tensor = self.net[2](self.activation(project(x)))
        return out


class RefinerNormOut(nn.Module):
    """Two gates from the refiner's own condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, condition: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor]:
        gate_attention, gate_mlp = self.linear(F.silu(condition))[:, None].chunk(2, dim=-1)
        return gate_attention, gate_mlp


class RefinerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each gated by the condition."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = RefinerAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.ff = FeedForward(width, hidden, F.silu)
        self.norm_out = RefinerNormOut(width)

    def forward(self, x: Tokens, condition: Float[Tensor, "b d"], mask: TextMask | None) -> Tokens:
        gate_attention, gate_mlp = self.norm_out(condition)
        x = x + self.attn(self.norm1(x), mask) * gate_attention
        out: Tensor = x + self.ff(self.norm2(x)) * gate_mlp
        return out


class TokenRefiner(nn.Module):
    """The refiner's blocks, one level deeper because the released names are."""

    def __init__(self, blocks: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.refiner_blocks = nn.ModuleList(
            RefinerBlock(width, heads, hidden) for _ in range(blocks)
        )


class TextRefiner(nn.Module):
    """Prompt states to text tokens; depends on the timestep, so it runs every step.

    Padding never influences valid tokens, so callers drop it (batch 1) or pass a mask.
    """

    def __init__(self, inputs: int, width: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.time_text_embed = ConditionEmbedding(inputs, width, guidance=False)
        self.proj_in = nn.Linear(inputs, width)
        self.token_refiner = TokenRefiner(blocks, width, heads, hidden)

    def forward(
        self,
        text: Float[Tensor, "b l i"],
        timestep: Float[Tensor, " b"],
        mask: TextMask | None = None,
    ) -> Tokens:
        condition = self.time_text_embed(timestep, _mean(text, mask))
        x = self.proj_in(text)
        for block in self.token_refiner.refiner_blocks:
            x = block(x, condition, mask)
        out: Tensor = x
        return out


def _mean(text: Float[Tensor, "b l i"], mask: TextMask | None) -> Float[Tensor, "b i"]:
    """Mean of the valid states, summed in fp32."""
    if mask is None:
        return text.float().mean(dim=1).to(text.dtype)
    weights = mask[..., None].float()
    return ((text.float() * weights).sum(dim=1) / weights.sum(dim=1)).to(text.dtype)


class ImageProjection(nn.Module):
    """Image-encoder states to text-stream tokens; the same in every step."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, states: Float[Tensor, "b n i"]) -> Tokens:
        out: Tensor = self.down(F.silu(self.up(states)))
        return out
