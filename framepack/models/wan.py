"""Packed Wan 2.1: the second base model (1.3 B or 14 B parameters), and Helios, which is one.

Packing touches only the latent sequence here: text enters by cross-attention. History levels are
patchified by projections of their own and put in front of the target, rotary phases follow the
frames' positions and are pooled to each kernel, and the target alone is returned. Without history
this is exactly Wan.

Names are those of Helios checkpoints (Wan 2.1 14B trained on with packed history at the kernels of
the released FramePack models; arXiv 2603.04379), which therefore load without a key map. A plain
Wan checkpoint differs in one name, and lacks the projections of history: these are interpolated
from its own (`framepack.packing.patchify`), a sane start for training.

Wan has no distilled guidance, no pooled text and no image tokens; the start picture is history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from framepack.errors import InvalidRequest, WeightsError
from framepack.models.base import LevelLatents, StepCache, TextCondition
from framepack.models.blocks import gelu
from framepack.models.embedding import FREQUENCIES, TwoLayers, sinusoids
from framepack.models.loading import CONFIG, Differences, load_weights, read_json
from framepack.models.wan_blocks import (
    BlockSwitches,
    GainMode,
    TextStream,
    Vectors,
    WanBlock,
    modulate_fp32,
)
from framepack.packing.patchify import (
    RELEASED_KERNELS,
    InterpolatedProjections,
    interpolate_projection,
    patchify,
)
from framepack.packing.rope import AxesDim, packed_phases, rotary_phases
from framepack.packing.schedule import BASE_KERNEL, Kernel, pooled_first
from framepack.types import Latents, Phases, Positions, ReadTokens, Tokens

_PROJECTIONS = dict(zip(RELEASED_KERNELS, ("patch_short", "patch_mid", "patch_long"), strict=True))

KEPT_FP32 = ("time_embedder", "scale_shift_table", "norm2", "history_key_scale")
"""Parts of names of tensors that stay fp32 beside bf16 weights, as in training."""


def projection_name(kernel: Kernel) -> str:
    """Name of a kernel's projection: Helios', or one of the same manner."""
    t, h, w = kernel
    return _PROJECTIONS.get(kernel, f"patch_{t}x{h}x{w}")


@dataclass(frozen=True)
class WanConfig:
    """Layout of a checkpoint; the defaults are Helios', the names of its config.json."""

    in_channels: int = 16
    out_channels: int = 16
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    num_layers: int = 40
    ffn_dim: int = 13824
    text_dim: int = 4096
    rope_dim: AxesDim = (44, 42, 42)
    rope_theta: float = 10_000.0
    guidance_cross_attn: bool = True
    zero_history_timestep: bool = True
    is_amplify_history: bool = False
    history_scale_mode: GainMode = "per_head"
    kernels: tuple[Kernel, ...] = field(default=RELEASED_KERNELS)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> WanConfig:
        """Read the config.json of a Helios or a text-to-video Wan transformer.

        Plain Wan has none of Helios' switches: they are off.

        Raises:
            WeightsError: It describes another architecture; names the keys.
        """
        wrong = {k: v for k, v in config.items() if k in _FIXED and v not in _FIXED[k]}
        known = {f.name for f in fields(cls)}
        unknown = {k for k in config if k not in known | _FIXED.keys() and not k.startswith("_")}
        if wrong or unknown:
            raise WeightsError(
                "config.json is not a text-to-video Wan or Helios transformer's: "
                f"unknown keys {sorted(unknown)}, unsupported values {wrong}"
            )
        values = {k: v for k, v in config.items() if k in known}
        if is_plain(config):
            values |= {"guidance_cross_attn": False, "zero_history_timestep": False}
            values["rope_dim"] = split_axes(values.get("attention_head_dim", 128))
        if "rope_dim" in values:
            values["rope_dim"] = tuple(values["rope_dim"])
        if "kernels" in values:
            values["kernels"] = tuple(Kernel(*kernel) for kernel in values["kernels"])
        made = cls(**values)
        if sum(made.rope_dim) != made.attention_head_dim:
            raise WeightsError(
                f"rope_dim {made.rope_dim} in config.json does not add up to attention_head_dim "
                f"{made.attention_head_dim}"
            )
        return made

    def to_json(self) -> dict[str, Any]:
        """A config.json that `from_json` reads back."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        fixed = {k: v[0] for k, v in _FIXED.items() if k not in _PLAIN_ONLY}
        return {"_class_name": "HeliosTransformer3DModelPacked", **own} | fixed


_PLAIN_ONLY = ("image_dim", "pos_embed_seq_len", "rope_max_seq_len")

_FIXED: dict[str, tuple[Any, ...]] = {
    "patch_size": ([*BASE_KERNEL], tuple(BASE_KERNEL)),
    "freq_dim": (FREQUENCIES,),
    "cross_attn_norm": (True,),
    "qk_norm": ("rms_norm_across_heads",),
    "eps": (1e-6,),
    "added_kv_proj_dim": (None,),
    "has_multi_term_memory_patch": (True,),
    "image_dim": (None,),
    "pos_embed_seq_len": (None,),
    "rope_max_seq_len": (1024,),
}
"""Keys of config.json that this architecture fixes, with the values it accepts."""


def is_plain(config: dict[str, Any]) -> bool:
    """Whether a config.json is plain Wan's, whose checkpoint knows no history."""
    return config.get("_class_name") == "WanTransformer3DModel"


def split_axes(head_dim: int) -> AxesDim:
    """Wan's split of a head: height and width a third each, rounded down to even; time the rest."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@dataclass(frozen=True)
class PreparedSection:
    """What a section's steps share.

    Attributes:
        history: (b, n, d) packed history tokens.
        phases: (b, n + target tokens, p) rotary phases.
        text: Projected text, which no timestep changes.
        history_modulation: (b, 1, 6, d) of timestep 0; None where history has the target's.
    """

    history: Tokens
    phases: Phases
    text: TextStream
    history_modulation: Vectors | None


class ConditionEmbedder(nn.Module):
    """Timestep and text into the model's width."""

    def __init__(self, text_dim: int, width: int) -> None:
        super().__init__()
        self.time_embedder = TwoLayers(FREQUENCIES, width)
        self.time_proj = nn.Linear(width, 6 * width)
        self.text_embedder = TwoLayers(text_dim, width, gelu)

    def time(self, timestep: Tensor) -> tuple[Tensor, Vectors]:
        """The embedding (b, d), and the six vectors (b, 1, 6, d) of the blocks' modulation."""
        embedder = self.time_embedder
        sines = sinusoids(timestep).to(embedder.linear_1.weight.dtype)
        embedding = embedder(sines).to(self.time_proj.weight.dtype)
        vectors = self.time_proj(F.silu(embedding))
        return embedding, rearrange(vectors, "b (chunks d) -> b 1 chunks d", chunks=6)


class OutputNorm(nn.Module):
    """The last modulation; the chunks are shift, scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def forward(self, x: Tokens, embedding: Tensor) -> Tokens:
        shift, scale = (self.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
        return modulate_fp32(x, shift, scale)


class PackedWan(nn.Module):
    """The transformer. Implements `framepack.models.base.PackedModel`."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.in_channels
        self.patch_embedding = nn.Conv3d(channels, width, BASE_KERNEL, BASE_KERNEL)
        for kernel in config.kernels:
            if pooled_first(kernel)[1] == kernel:
                self.add_module(projection_name(kernel), nn.Conv3d(channels, width, kernel, kernel))
        self._others = InterpolatedProjections()
        self.condition_embedder = ConditionEmbedder(config.text_dim, width)
        switches = BlockSwitches(
            text_for_target_only=config.guidance_cross_attn,
            history_gain=config.history_scale_mode if config.is_amplify_history else None,
        )
        self.blocks = nn.ModuleList(
            WanBlock(width, config.num_attention_heads, config.ffn_dim, switches)
            for _ in range(config.num_layers)
        )
        self.norm_out = OutputNorm(width)
        self.proj_out = nn.Linear(width, config.out_channels * BASE_KERNEL.volume)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of activations and of all weights but `KEPT_FP32`."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.patch_embedding.weight.device

    def start_history(self) -> None:
        """Give every kernel the projection interpolated from the base one, as for plain Wan."""
        base = self.patch_embedding
        for kernel in self.config.kernels:
            own = self.get_submodule(projection_name(kernel))
            own.weight = nn.Parameter(interpolate_projection(base.weight.detach(), kernel))
            own.bias = nn.Parameter(_bias(base).detach().clone())

    def prepare(
        self,
        levels: Sequence[LevelLatents],
        positions: Positions,
        size: tuple[int, int],
        condition: TextCondition,
        guidance_scale: float = 0.0,
        causal_block: int | None = None,
    ) -> PreparedSection:
        """See `PackedModel.prepare`. Wan has no distilled guidance: ``guidance_scale`` is not read.

        The projections of text and of timestep 0 are the section's, not the step's.
        """
        if causal_block is not None:
            raise InvalidRequest("attention", "Wan presets have full attention only")
        to = torch.empty(0, device=self.device, dtype=self.dtype)
        tokens = [
            patchify(level.latents.to(to), level.kernel, self._projection) for level in levels
        ]
        batch = positions.shape[0]
        history = torch.cat(tokens, 1) if tokens else to.new_empty(batch, 0, self.config.width)
        phases = [
            self._phases(level.positions, size, level.kernel, level.pooled) for level in levels
        ]
        embedder, still = self.condition_embedder, None
        if self.config.zero_history_timestep and tokens:
            still = embedder.time(torch.zeros(batch, device=self.device))[1]
        mask = None if condition.mask is None else condition.mask.to(self.device)
        return PreparedSection(
            history=history,
            phases=torch.cat([*phases, self._phases(positions, size, BASE_KERNEL)], dim=1),
            text=TextStream(embedder.text_embedder(condition.text.to(to)), mask),
            history_modulation=still,
        )

    def _projection(self, kernel: Kernel) -> nn.Module:
        if kernel in self.config.kernels:
            return self.get_submodule(projection_name(kernel))
        return self._others(self.patch_embedding, kernel)

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
            positions.to(self.device), height, width, config.rope_dim, config.rope_theta
        )
        return packed_phases(full, kernel, pooled)

    def predict(
        self,
        latents: Latents,
        timestep: Tensor,
        prepared: PreparedSection,
        cache: StepCache | None = None,
    ) -> Latents:
        """See `PackedModel.predict`."""
        grid = self.patch_embedding(latents)
        target = rearrange(grid, "b d t h w -> b (t h w) d")
        x = torch.cat([prepared.history, target], dim=1)
        embedding, modulation = self.condition_embedder.time(timestep.to(self.device))
        if prepared.history_modulation is not None:
            modulation = torch.cat([prepared.history_modulation, modulation], dim=1)
        border = prepared.history.shape[1]

        def blocks() -> Tokens:
            return self._blocks(x, modulation, prepared)

        if cache is None:
            target = blocks()
        else:
            first: Any = self.blocks[0]
            target = cache(target, first.first_input(x, modulation, border), blocks)
        out = self.proj_out(self.norm_out(target, embedding))
        t, h, w = grid.shape[2:]
        kt, kh, kw = BASE_KERNEL
        velocity: Tensor = rearrange(
            out,
            "b (t h w) (kt kh kw c) -> b c (t kt) (h kh) (w kw)",
            t=t,
            h=h,
            w=w,
            kt=kt,
            kh=kh,
            kw=kw,
        )
        return velocity.float()

    forward = predict

    def _blocks(self, x: Tokens, modulation: Vectors, prepared: PreparedSection) -> ReadTokens:
        """The target's tokens after all blocks; the last one computes no others."""
        border, last = prepared.history.shape[1], len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            first_read = border if number == last else 0
            x = block(x, prepared.text, modulation, prepared.phases, border, first_read)
        return x


def _bias(conv: nn.Conv3d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def load_wan(folder: Path, device: torch.device | str, dtype: torch.dtype) -> PackedWan:
    """Load a folder with a Helios or a plain Wan transformer, in one or more safetensors files.

    Raises:
        WeightsError: See `framepack.models.loading.load_weights`.
    """
    stated = read_json(folder / CONFIG)
    config = WanConfig.from_json(stated)
    with torch.device("meta"):
        model = PackedWan(config)
    plain = is_plain(stated)
    load_weights(
        model,
        folder,
        device,
        dtype,
        Differences(
            may_lack=tuple(map(projection_name, config.kernels)) if plain else (),
            renamed={"scale_shift_table": "norm_out.scale_shift_table"} if plain else {},
            kept_fp32=KEPT_FP32,
        ),
    )
    if plain:
        model.start_history()
    return model.eval().requires_grad_(requires_grad=False)
