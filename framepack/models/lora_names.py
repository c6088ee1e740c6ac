"""How LoRA files call the modules of a HunyuanVideo transformer.

Two naming schemes are about: that of diffusers, which is ours, and that of the original
implementation, which fuses projections that share an input: one matrix there is several of ours,
stacked by rows. Each scheme is also spelled with underscores for dots (kohya's trainers).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")

_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn_qkv": _ATTENTION,
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp.fc1": ("ff.net.0.proj",),
    "img_mlp.fc2": ("ff.net.2",),
    "txt_mlp.fc1": ("ff_context.net.0.proj",),
    "txt_mlp.fc2": ("ff_context.net.2",),
    "img_mod.linear": ("norm1.linear",),
    "txt_mod.linear": ("norm1_context.linear",),
}
_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": (*_ATTENTION, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.linear": ("norm.linear",),
}
_REFINER: Mapping[str, tuple[str, ...]] = {
    "self_attn_qkv": _ATTENTION,
    "self_attn_proj": ("attn.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm_out.linear",),
}
_BLOCKS = (
    ("double_blocks", "transformer_blocks", _DOUBLE),
    ("single_blocks", "single_transformer_blocks", _SINGLE),
    (
        "txt_in.individual_token_refiner.blocks",
        "context_embedder.token_refiner.refiner_blocks",
        _REFINER,
    ),
)
"""The original's list of blocks, ours, and what is in a block."""

_OUTSIDE: Mapping[str, str] = {
    "img_in.proj": "x_embedder.proj",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": "context_embedder.time_text_embed.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": "context_embedder.time_text_embed.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}


@dataclass(frozen=True)
class Target:
    """What a name in a file stands for.

    Attributes:
        modules: Of ours, whose rows are stacked in this order.
        halves_swapped: The original's last modulation states shift before scale, ours after.
    """

    modules: tuple[str, ...]
    halves_swapped: bool = False


def original_targets(modules: Collection[str]) -> dict[str, Target]:
    """The original's names for our modules; a fused one is there if any of its parts is."""
    targets = {
        original: Target((ours,), halves_swapped=ours == "norm_out.linear")
        for original, ours in _OUTSIDE.items()
        if ours in modules
    }
    for theirs, ours, inside in _BLOCKS:
        numbers = {
            int(match[1]) for m in modules if (match := re.match(rf"{re.escape(ours)}\.(\d+)\.", m))
        }
        for number in sorted(numbers):
            for original, parts in inside.items():
                named = tuple(f"{ours}.{number}.{part}" for part in parts)
                if any(name in modules for name in named):
                    targets[f"{theirs}.{number}.{original}"] = Target(named)
    return targets


def known_targets(modules: Collection[str]) -> dict[str, Target]:
    """Every spelling under which a file may mean some of our modules, prefixes left out."""
    dotted = {name: Target((name,)) for name in modules} | original_targets(modules)
    return dotted | {name.replace(".", "_"): target for name, target in dotted.items()}
