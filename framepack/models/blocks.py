"""The two kinds of transformer block, under the released tensor names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from framepack.models.attention import Heads, attend
from framepack.models.embedding import FeedForward
from framepack.packing.rope import rotate
from framepack.types import JointMask, Phases, ReadTokens, TextTokens, Tokens

EPS = 1e-6
Condition = Float[Tensor, "b d"]


def gelu(x: Tensor) -> Tensor:
    """The tanh approximation, as in the checkpoints' training."""
    return F.gelu(x, approximate="tanh")


def modulate(x: Tokens, shift: Tensor, scale: Tensor) -> Tokens:
    """Layer norm without parameters, then scale and shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


class Modulation(nn.Module):
    """Condition to ``chunks`` vectors (AdaLN-Zero): shift, scale, gate, ..."""

    def __init__(self, width: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.linear = nn.Linear(width, chunks * width)

    def forward(self, condition: Condition) -> tuple[Tensor, ...]:
        return tuple(self.linear(F.silu(condition))[:, None].chunk(self.chunks, dim=-1))


class HeadNorm(nn.Module):
    """RMS norm over the channels of a head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), EPS)


class JointAttention(nn.Module):
    """Attention of the image and the text stream together, each with its own projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            self.add_module(name, nn.Linear(width, width))
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            self.add_module(name, HeadNorm(width // heads))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)

    def forward(
        self, image: Tokens, text: TextTokens, phases: Phases, mask: JointMask | None
    ) -> tuple[Tokens, TextTokens]:
        q, k, v = self._heads(image, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        text_q, text_k, text_v = self._heads(
            text, ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")
        )
        joint = attend(
            torch.cat([rotate(q, phases), text_q], dim=1),
            torch.cat([rotate(k, phases), text_k], dim=1),
            torch.cat([v, text_v], dim=1),
            joint_mask(mask, image.shape[1]),
        )
        count = image.shape[1]
        return self.to_out[0](joint[:, :count]), self.to_add_out(joint[:, count:])

    def _heads(
        self, x: Tokens, projections: tuple[str, ...], norms: tuple[str, str]
    ) -> tuple[Heads, Heads, Heads]:
        q, k, v = (
            self.get_submodule(name)(x).unflatten(-1, (self.heads, -1)) for name in projections
        )
        return self.get_submodule(norms[0])(q), self.get_submodule(norms[1])(k), v


def joint_mask(text_mask: JointMask | None, image_tokens: int) -> Bool[Tensor, "b ..."] | None:
    """Which keys of the joint sequence exist, given which text tokens do.

    A mask of queries and keys is the whole sequence's already.
    """
    if text_mask is None or text_mask.ndim == 3:
        return text_mask
    return F.pad(text_mask, (image_tokens, 0), value=True)


class DoubleBlock(nn.Module):
    """Separate parameters for the image and the text stream, joint attention."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 6)
        self.attn = JointAttention(width, heads)
        self.ff = FeedForward(width, hidden, gelu)
        self.ff_context = FeedForward(width, hidden, gelu)

    def forward(
        self,
        image: Tokens,
        text: TextTokens,
        condition: Condition,
        phases: Phases,
        mask: JointMask | None,
    ) -> tuple[Tokens, TextTokens]:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.norm1(condition)
        t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = self.norm1_context(
            condition
        )
        image_out, text_out = self.attn(
            modulate(image, shift, scale), modulate(text, t_shift, t_scale), phases, mask
        )
        image = torch.addcmul(image, image_out, gate)
        text = torch.addcmul(text, text_out, t_gate)
        image = torch.addcmul(image, self.ff(modulate(image, mlp_shift, mlp_scale)), mlp_gate)
        text = torch.addcmul(
            text, self.ff_context(modulate(text, t_mlp_shift, t_mlp_scale)), t_mlp_gate
        )
        return image, text


class SingleAttention(nn.Module):
    """Projections of the joint sequence; the output projection is the block's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = HeadNorm(width // heads)
        self.norm_k = HeadNorm(width // heads)

    def forward(self, x: Tokens, phases: Phases, mask: JointMask | None, read: slice) -> ReadTokens:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1))
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return attend(
            _rotate_front(self.norm_q(q), phases)[:, read],
            _rotate_front(self.norm_k(k), phases),
            v,
            mask,
        )


def _rotate_front(states: Heads, phases: Phases) -> Heads:
    """Rotate the image stream, which comes first, and leave the text stream."""
    count = phases.shape[1]
    return torch.cat([rotate(states[:, :count], phases), states[:, count:]], dim=1)


class SingleBlock(nn.Module):
    """Attention and a parallel MLP over the joint sequence, which stays joint between blocks."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = Modulation(width, 3)
        self.attn = SingleAttention(width, heads)
        self.proj_mlp = nn.Linear(width, hidden)
        self.proj_out = nn.Linear(width + hidden, width)

    def forward(
        self,
        joint: Tokens,
        condition: Condition,
        phases: Phases,
        mask: JointMask | None,
        read: slice,
    ) -> ReadTokens:
        """The tokens that will be read of the joint sequence after the block."""
        shift, scale, gate = self.norm(condition)
        x = modulate(joint, shift, scale)
        attended = self.attn(x, phases, mask, read)
        branches = torch.cat([attended, gelu(self.proj_mlp(x[:, read]))], dim=-1)
        return torch.addcmul(joint[:, read], self.proj_out(branches), gate)
