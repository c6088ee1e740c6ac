"""The packed HunyuanVideo transformer of the released checkpoints (12.9 B parameters).

Submodule names are the released tensor names, so a checkpoint loads without a key map. The forward
pass is ours and split where the work repeats: `prepare` once a section (packed history, rotary
phases, image tokens), `predict` once a step.

Image stream: history levels in the order given (coarsest first), then the target, which alone is
returned and therefore all that the last block computes. Text stream: image-encoder tokens, then
refined text. Attention sees image stream, then text stream; only the image stream rotates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from framepack.errors import InvalidRequest, WeightsError
from framepack.models.attention import block_causal
from framepack.models.base import LevelLatents, StepCache, TextCondition
from framepack.models.blocks import DoubleBlock, SingleBlock, joint_mask, modulate
from framepack.models.conditions import CAPACITY, ConditionMemo, KeptModulation, condition_key
from framepack.models.embedding import ConditionEmbedding, ImageProjection, TextRefiner
from framepack.models.parallel import SequenceParallel
from framepack.packing.patchify import RELEASED_KERNELS, ContextPatchify
from framepack.packing.rope import AxesDim, packed_phases, rotary_phases
from framepack.packing.schedule import BASE_KERNEL, Kernel
from framepack.types import JointMask, Latents, Phases, Positions, ReadTokens, TextTokens, Tokens


@dataclass(frozen=True)
class HunyuanVideoConfig:
    """Layout of a checkpoint; the defaults are the released one."""

    in_channels: int = 16
    out_channels: int = 16
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    num_layers: int = 20
    num_single_layers: int = 40
    num_refiner_layers: int = 2
    mlp_ratio: float = 4.0
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768
    image_proj_dim: int = 1152
    guidance_embeds: bool = True
    rope_theta: float = 256.0
    rope_axes_dim: AxesDim = (16, 56, 56)
    kernels: tuple[Kernel, ...] = field(default=RELEASED_KERNELS)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def hidden(self) -> int:
        """Channels inside a feed-forward."""
        return int(self.width * self.mlp_ratio)

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> HunyuanVideoConfig:
        """Read a checkpoint's config.json.

        Raises:
            WeightsError: It describes another architecture; names the keys.
        """
        wrong = {k: v for k, v in config.items() if k in _FIXED and v not in _FIXED[k]}
        known = {f.name for f in fields(cls)}
        unknown = {k for k in config if k not in known | _FIXED.keys() and not k.startswith("_")}
        if wrong or unknown:
            raise WeightsError(
                "config.json is not a packed HunyuanVideo transformer's: "
                f"unknown keys {sorted(unknown)}, unsupported values {wrong}"
            )
        values = {k: v for k, v in config.items() if k in known}
        if "rope_axes_dim" in values:
            values["rope_axes_dim"] = tuple(values["rope_axes_dim"])
        if "kernels" in values:
            values["kernels"] = tuple(Kernel(*kernel) for kernel in values["kernels"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """A config.json that `from_json` reads back."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"_class_name": "HunyuanVideoTransformer3DModelPacked", **own} | {
            key: values[0] for key, values in _FIXED.items()
        }


_FIXED: dict[str, tuple[Any, ...]] = {
    "patch_size": (BASE_KERNEL.h,),
    "patch_size_t": (BASE_KERNEL.t,),
    "qk_norm": ("rms_norm",),
    "has_image_proj": (True,),
    "has_clean_x_embedder": (True,),
    "image_condition_type": (None,),
}
"""Keys of config.json that this architecture fixes, with the values it accepts."""


@dataclass(frozen=True)
class PreparedSection:
    """What a section's steps share.

    Attributes:
        history: (b, n, d) packed history tokens.
        phases: (b, n + target tokens, p) rotary phases of the image stream.
        image: (b, m, d) projected image-encoder tokens.
        condition: Text conditioning.
        guidance: (b,) distilled guidance times 1000, in the model's dtype.
        mask: (b, m) which tokens of the text stream exist, or (b, n, n) which of the joint
            sequence may see which; None where all may.
        key: Of what `ConditionMemo` keeps for this condition; None to keep nothing.
    """

    history: Tokens
    phases: Phases
    image: TextTokens
    condition: TextCondition
    guidance: Tensor | None
    mask: Tensor | None = None
    key: str | None = None


class PatchEmbedding(nn.Module):
    """Target latents to tokens."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, BASE_KERNEL, BASE_KERNEL)

    def forward(self, latents: Latents) -> Tokens:
        """Tokens, (t, h, w) row-major."""
        tokens: Tensor = rearrange(self.proj(latents), "b d t h w -> b (t h w) d")
        return tokens


class FinalNorm(nn.Module):
    """The last modulation; its chunks are scale, shift: the other order than in the blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tokens, condition: Tensor) -> Tokens:
        """Modulate with the condition."""
        scale, shift = self.linear(F.silu(condition))[:, None].chunk(2, dim=-1)
        return modulate(x, shift, scale)


class PackedHunyuanVideo(nn.Module):
    """The transformer. Implements `framepack.models.base.PackedModel`."""

    def __init__(self, config: HunyuanVideoConfig) -> None:
        super().__init__()
        self.config = config
        width, heads, hidden = config.width, config.num_attention_heads, config.hidden
        self.x_embedder = PatchEmbedding(config.in_channels, width)
        self.clean_x_embedder = ContextPatchify(config.in_channels, width, config.kernels)
        self.image_projection = ImageProjection(config.image_proj_dim, width)
        self.time_text_embed = ConditionEmbedding(
            config.pooled_projection_dim, width, guidance=config.guidance_embeds
        )
        self.context_embedder = TextRefiner(
            config.text_embed_dim, width, heads, hidden, config.num_refiner_layers
        )
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(width, heads, hidden) for _ in range(config.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(width, heads, hidden) for _ in range(config.num_single_layers)
        )
        self.norm_out = FinalNorm(width)
        self.proj_out = nn.Linear(width, config.out_channels * BASE_KERNEL.volume)
        self.memo: ConditionMemo | None = None
        self.parallel: SequenceParallel | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations."""
        return self.x_embedder.proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.x_embedder.proj.weight.device

    def prepare(
        self,
        levels: Sequence[LevelLatents],
        positions: Positions,
        size: tuple[int, int],
        condition: TextCondition,
        guidance_scale: float,
        causal_block: int | None = None,
    ) -> PreparedSection:
        """See `PackedModel.prepare`. The guidance is rounded to the model's dtype (official)."""
        to = torch.empty(0, device=self.device, dtype=self.dtype)
        tokens = [self.clean_x_embedder(level.latents.to(to), level.kernel) for level in levels]
        phases = [
            self._phases(level.positions, size, level.kernel, level.pooled) for level in levels
        ]
        batch = positions.shape[0]
        history = torch.cat(tokens, 1) if tokens else to.new_empty(batch, 0, self.config.width)
        guidance = to.new_full((batch,), 1000.0 * guidance_scale)
        mask = None if condition.mask is None else condition.mask.to(self.device)
        image = self.image_projection(condition.image.to(to))
        seen = joint_mask(mask, image.shape[1])
        if causal_block is not None:
            if self.parallel is not None:
                raise InvalidRequest(
                    "attention", "causal attention runs in one process, not in many"
                )
            per_frame = (size[0] // BASE_KERNEL.h) * (size[1] // BASE_KERNEL.w)
            text = image.shape[1] + condition.text.shape[1]
            frames = positions.shape[1]
            allowed = block_causal(history.shape[1], frames, per_frame, text, causal_block)
            exists = joint_mask(seen, history.shape[1] + frames * per_frame)
            seen = allowed.to(self.device).expand(batch, -1, -1)
            seen = seen if exists is None else seen & exists[:, None]
        return PreparedSection(
            history=history,
            phases=torch.cat([*phases, self._phases(positions, size, BASE_KERNEL)], dim=1),
            image=image,
            condition=TextCondition(
                text=condition.text.to(to),
                pooled=condition.pooled.to(to),
                image=condition.image,
                mask=mask,
            ),
            mask=seen,
            guidance=guidance if self.config.guidance_embeds else None,
            key=None if self.memo is None else condition_key(condition, guidance_scale),
        )

    def _phases(
        self,
        positions: Positions,
        size: tuple[int, int],
        kernel: Kernel,
        pooled: Kernel | None = None,
    ) -> Phases:
        height, width = size[0] // BASE_KERNEL.h, size[1] // BASE_KERNEL.w
        config = self.config
        full = rotary_phases(
            positions.to(self.device), height, width, config.rope_axes_dim, config.rope_theta
        )
        return packed_phases(full, kernel, pooled)

    def anticipate(self, timesteps: Tensor, prepared: PreparedSection) -> None:
        """See `framepack.models.base.Anticipating`: condition vectors and blocks' modulations."""
        if prepared.key is None or 2 * len(timesteps) > CAPACITY:  # nothing would be kept
            return
        steps = timesteps.to(self.dtype)[:, None]
        conditions = [self._conditions(step, prepared)[1] for step in steps]
        for module in self.modules():
            if isinstance(module, KeptModulation):
                module.anticipate(conditions)

    def predict(
        self,
        latents: Latents,
        timestep: Tensor,
        prepared: PreparedSection,
        cache: StepCache | None = None,
    ) -> Latents:
        """See `PackedModel.predict`."""
        # Official: in bf16 this snaps to multiples of four near 1000.
        timestep = timestep.to(self.dtype)
        target = self.x_embedder(latents)
        image = torch.cat([prepared.history, target], dim=1)
        text, condition = self._conditions(timestep, prepared)

        def blocks() -> Tokens:
            return self._blocks(image, text, condition, prepared)

        if cache is None:
            target = blocks()
        else:
            target = cache(target, self._first_input(image, condition), blocks)
        return self._head(target, condition, latents.shape)

    forward = predict

    def _conditions(self, timestep: Tensor, prepared: PreparedSection) -> tuple[TextTokens, Tensor]:
        given = prepared.condition

        def compute() -> tuple[TextTokens, Tensor]:
            there = timestep.to(self.device)
            refined = self.context_embedder(given.text, there, given.mask)
            return refined, self.time_text_embed(there, given.pooled, prepared.guidance)

        keep = self.memo
        refined, condition = (
            compute() if keep is None else keep.get(prepared.key, timestep, compute)
        )
        return torch.cat([prepared.image, refined], dim=1), condition

    def _first_input(self, image: Tokens, condition: Tensor) -> Tokens:
        """What the first block's attention sees: the signal of step caches."""
        first = self.transformer_blocks[0].get_submodule("norm1")
        shift, scale, *_ = first(condition)
        return modulate(image, shift, scale)

    def _blocks(
        self, image: Tokens, text: TextTokens, condition: Tensor, prepared: PreparedSection
    ) -> ReadTokens:
        """The target's tokens after all blocks; the last one computes no others."""
        phases, mask = prepared.phases, prepared.mask
        target = slice(prepared.history.shape[1], image.shape[1])
        if self.parallel is None:
            return self._run((image, text), condition, phases, mask, target)
        part, text, phases = self.parallel.scatter(image, text, phases)
        joint = self._run((part, text), condition, phases, mask, slice(None))
        return self.parallel.gather(joint[:, : part.shape[1]])[:, target]

    def _run(
        self,
        streams: tuple[Tokens, TextTokens],
        condition: Tensor,
        phases: Phases,
        mask: JointMask | None,
        read: slice,
    ) -> ReadTokens:
        """All blocks; of the last one the tokens of the joint sequence that are read."""
        image, text = streams
        for block in self.transformer_blocks:
            image, text = block(image, text, condition, phases, mask)
        joint = torch.cat([image, text], dim=1)
        whole_mask = joint_mask(mask, image.shape[1])
        last = len(self.single_transformer_blocks) - 1
        for number, block in enumerate(self.single_transformer_blocks):
            rows = read if number == last else slice(None)
            causal = whole_mask is not None and whole_mask.ndim == 3
            of_rows = whole_mask[:, rows] if causal and whole_mask is not None else whole_mask
            joint = block(joint, condition, phases, of_rows, rows)
        return joint

    def _head(self, tokens: Tokens, condition: Tensor, shape: torch.Size) -> Latents:
        """Tokens to latents; the projection runs in fp32 whatever the model's dtype."""
        projection = self.proj_out
        out = F.linear(
            self.norm_out(tokens, condition).float(),
            projection.weight.float(),
            projection.bias.float(),
        )
        _, _, t, h, w = shape
        kt, kh, kw = BASE_KERNEL
        return rearrange(
            out,
            "b (t h w) (c kt kh kw) -> b c (t kt) (h kh) (w kw)",
            t=t // kt,
            h=h // kh,
            w=w // kw,
            kt=kt,
            kh=kh,
            kw=kw,
        )
