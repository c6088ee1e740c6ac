"""The transformer's inference form: the same sums in fewer and larger operations.

Projections of the same input become one matrix product, queries and keys rotate in place, and the
last block computes what is read from it: the target's tokens. On a CPU in fp32 weights are packed
for oneDNN once, which also takes the activation into the product. Results differ from
`framepack.models.blocks` by rounding alone (tests hold them to 1e-5 in fp32); there is no gradient
and no way back, so training, merging and saving come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framepack.models.attention import Heads, attend
from framepack.models.blocks import (
    EPS,
    Condition,
    DoubleBlock,
    HeadNorm,
    SingleBlock,
    gelu,
    joint_mask,
    modulate,
)
from framepack.models.conditions import ConditionMemo, KeptModulation
from framepack.models.float8 import fits, multiply, to_float8
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.parallel import SequenceParallel
from framepack.packing.rope import rotate
from framepack.types import JointMask, Phases, ReadTokens, TextTokens, Tokens

M = TypeVar("M", bound=nn.Module)
Activation = Literal["none", "gelu"]

Attention = Callable[[Heads, Heads, Heads, JointMask | None], Tokens]

Settling = Callable[[nn.Module, nn.ModuleList, int], AbstractContextManager[None]]
"""Of a block, the list that will hold its form, and its number there."""

FORM = "fused 1"
"""For engine fingerprints: another form rounds otherwise."""


def fuse(
    model: PackedHunyuanVideo,
    parallel: SequenceParallel | None = None,
    settle: Settling | None = None,
) -> PackedHunyuanVideo:
    """Give a model its inference form, in place; block by block, so no second copy is held.

    Args:
        model: On its device and in its dtype: packed weights do not move.
        parallel: Splits the sequence with other processes that call this, too.
        settle: Brings each block to the device while it takes its form, and puts it where it is to
            wait.
    """
    attention = attend if parallel is None else parallel.attend
    single = model.single_transformer_blocks
    for blocks in (model.transformer_blocks, single):
        for number, block in enumerate(blocks):
            with nullcontext() if settle is None else settle(block, blocks, number):
                if isinstance(block, DoubleBlock):
                    blocks[number] = FusedDoubleBlock(block, attention)
                elif isinstance(block, SingleBlock):
                    blocks[number] = FusedSingleBlock(block, attention)
    model.memo, model.parallel = ConditionMemo(), parallel
    return model.eval().requires_grad_(requires_grad=False)


class FusedLinear(nn.Module):
    """Linear layers of the same input as one, with an optional activation."""

    def __init__(self, layers: Sequence[nn.Linear], activation: Activation = "none") -> None:
        super().__init__()
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.activation = activation
        self.packed = _can_pack(weight)
        weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer(
            "bias", torch.cat([layer.bias.detach() for layer in layers]), persistent=False
        )
        self.float8 = False

    def unpack(self) -> None:
        """Give the weight its plain layout back, the only one that `torch.compile` can read."""
        self.weight, self.packed = self._plain_weight(), False

    def use_float8(self) -> bool:
        """Multiply in float8 from now on: lossy. False if kernels do not take its shape."""
        weight = self._plain_weight()
        if not fits(weight):
            return False
        self.weight, scale = to_float8(weight)
        self.register_buffer("scale", scale, persistent=False)
        self.packed, self.float8 = False, True
        return True

    def _plain_weight(self) -> Tensor:
        weight = self.get_buffer("weight")
        return weight.to_dense() if self.packed else weight

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.get_buffer("weight"), self.get_buffer("bias")
        if self.float8:
            out = multiply(x, weight, self.get_buffer("scale")) + bias
            return gelu(out) if self.activation == "gelu" else out
        if self.packed:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, weight, bias, self.activation, [], "tanh" if self.activation == "gelu" else ""
            )
            return packed
        out = F.linear(x, weight, bias)
        return gelu(out) if self.activation == "gelu" else out


def _can_pack(weight: Tensor) -> bool:
    """Whether oneDNN takes these weights packed: what `torch.compile` uses when it freezes."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class FusedHeads(nn.Module):
    """Queries, keys and values of a stream, queries and keys normed."""

    def __init__(
        self, projections: Sequence[nn.Linear], norms: Sequence[HeadNorm], heads: int
    ) -> None:
        super().__init__()
        self.project = FusedLinear(projections)
        self.norms = nn.ModuleList(norms)
        self.heads = heads

    def forward(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        joined: Tensor = self.project(x)
        q, k, v = joined.reshape(*joined.shape[:-1], 3, self.heads, -1).unbind(-3)
        return self.norms[0](q), self.norms[1](k), v


def _rotate_front(states: Heads, phases: Phases) -> Heads:
    """Rotate the image stream, which comes first; in place where no precision is lost."""
    count = phases.shape[1]
    front = states[:, :count]
    if states.dtype == torch.float32:
        pairs = front.view(*front.shape[:-1], -1, 2)
        torch.view_as_complex(pairs).mul_(phases[:, :, None])
    else:
        front.copy_(rotate(front, phases))
    return states


def _modulate(x: Tokens, shift: Tensor, scale: Tensor) -> Tokens:
    """As `modulate`; with one condition for all, the norm's own kernel does it in one pass."""
    if x.shape[0] > 1 or x.dtype != torch.float32:
        return modulate(x, shift, scale)
    return F.layer_norm(x, x.shape[-1:], 1 + scale.flatten(), shift.flatten(), EPS)


class FusedDoubleBlock(nn.Module):
    """Inference form of `DoubleBlock`."""

    def __init__(self, block: DoubleBlock, attention: Attention) -> None:
        super().__init__()
        self.attend = attention
        attn, heads = block.attn, block.attn.heads

        def linear(name: str) -> nn.Linear:
            return _the(nn.Linear, attn.get_submodule(name))

        def norm(name: str) -> HeadNorm:
            return _the(HeadNorm, attn.get_submodule(name))

        self.norm1 = KeptModulation(block.norm1)
        self.norm1_context = KeptModulation(block.norm1_context)
        self.image = FusedHeads(
            [linear(f"to_{n}") for n in "qkv"], [norm("norm_q"), norm("norm_k")], heads
        )
        self.text = FusedHeads(
            [linear(f"add_{n}_proj") for n in "qkv"],
            [norm("norm_added_q"), norm("norm_added_k")],
            heads,
        )
        self.image_out = FusedLinear([linear("to_out.0")])
        self.text_out = FusedLinear([linear("to_add_out")])
        self.ff, self.ff_context = _fused_mlp(block.ff), _fused_mlp(block.ff_context)

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
        q, k, v = (
            torch.cat(pair, dim=1)
            for pair in zip(
                self.image(_modulate(image, shift, scale)),
                self.text(_modulate(text, t_shift, t_scale)),
                strict=True,
            )
        )
        count = image.shape[1]
        q, k = _rotate_front(q, phases), _rotate_front(k, phases)
        joint = self.attend(q, k, v, joint_mask(mask, count))
        image = torch.addcmul(image, self.image_out(joint[:, :count]), gate)
        text = torch.addcmul(text, self.text_out(joint[:, count:]), t_gate)
        image = torch.addcmul(image, self.ff(_modulate(image, mlp_shift, mlp_scale)), mlp_gate)
        text = torch.addcmul(
            text, self.ff_context(_modulate(text, t_mlp_shift, t_mlp_scale)), t_mlp_gate
        )
        return image, text


def _fused_mlp(mlp: nn.Module) -> nn.Sequential:
    first, last = (_the(nn.Linear, mlp.get_submodule(n)) for n in ("net.0.proj", "net.2"))
    return nn.Sequential(FusedLinear([first], "gelu"), FusedLinear([last]))


def _the(kind: type[M], module: nn.Module) -> M:
    """A submodule whose type a lookup by name forgets."""
    if not isinstance(module, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(module).__name__}")
    return module


class FusedSingleBlock(nn.Module):
    """Inference form of `SingleBlock`."""

    def __init__(self, block: SingleBlock, attention: Attention) -> None:
        super().__init__()
        self.attend = attention
        attn = block.attn
        self.norm = KeptModulation(block.norm)
        self.heads = FusedHeads(
            [attn.to_q, attn.to_k, attn.to_v], [attn.norm_q, attn.norm_k], attn.heads
        )
        self.mlp = FusedLinear([block.proj_mlp], "gelu")
        self.out = FusedLinear([block.proj_out])

    def forward(
        self,
        joint: Tokens,
        condition: Condition,
        phases: Phases,
        mask: JointMask | None,
        read: slice,
    ) -> ReadTokens:
        """See `SingleBlock.forward`."""
        shift, scale, gate = self.norm(condition)
        x = _modulate(joint, shift, scale)
        q, k, v = self.heads(x)
        q, k = _rotate_front(q, phases), _rotate_front(k, phases)
        branches = torch.cat([self.attend(q[:, read], k, v, mask), self.mlp(x[:, read])], dim=-1)
        return torch.addcmul(joint[:, read], self.out(branches), gate)
