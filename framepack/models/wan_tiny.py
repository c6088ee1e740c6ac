"""Complete folders of small Wan models with seeded random weights, laid out like Helios-Base.

As `framepack.models.tiny`, whose vocabulary and tokenizer these share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from framepack.models.loading import save_transformer
from framepack.models.tiny import EOS, PAD, VOCABULARY, make_tokenizer, seeded, write_json
from framepack.models.wan import PackedWan, WanConfig, split_axes

SCHEDULER = {
    "_class_name": "HeliosScheduler",
    "stages": 1,
    "stage_range": [0, 1],
    "scheduler_type": "unipc",
    "solver_order": 2,
    "solver_type": "bh2",
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
}
"""What Helios-Base is sampled with, as far as `framepack.generation` reproduces it."""

MAX_TOKENS = 48


@dataclass(frozen=True)
class WanSize:
    """Widths and depths of one folder.

    Attributes:
        transformer: The packed transformer; states the text encoder's width too.
        encoder_layers: Layers of the text encoder.
        vae_dim: Narrowest width of the autoencoder.
    """

    transformer: WanConfig
    encoder_layers: int
    vae_dim: int


WAN_SIZES: Mapping[str, WanSize] = {
    "nano": WanSize(
        WanConfig(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            ffn_dim=64,
            text_dim=16,
            rope_dim=split_axes(16),
        ),
        encoder_layers=1,
        vae_dim=3,
    ),
}


def build_wan_folder(path: Path, size: str = "nano", seed: int = 0) -> None:
    """Write a folder that `framepack.presets.load_preset` reads as preset ``tiny-wan``.

    The same size and seed give the same files, byte for byte.

    Args:
        path: Created if absent; files in it are overwritten.
        size: Key of `WAN_SIZES`.
        seed: Of all random weights.
    """
    chosen = WAN_SIZES[size]
    path.mkdir(parents=True, exist_ok=True)
    with seeded(seed):
        save_transformer(PackedWan(chosen.transformer), path / "transformer")
        _vae(chosen).save_pretrained(path / "vae")
        _umt5(chosen).save_pretrained(path / "text_encoder")
    make_tokenizer(begins=False).save_pretrained(path / "tokenizer")
    write_json(path / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(path / "framepack.json", {"prompt_max_tokens": MAX_TOKENS})


def _vae(size: WanSize) -> Any:
    """All four stages, so 8 x 8 x 4 as released."""
    return AutoencoderKLWan(base_dim=size.vae_dim, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def _umt5(size: WanSize) -> Any:
    width = size.transformer.text_dim
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(VOCABULARY),
            d_model=width,
            d_kv=width // 2,
            d_ff=2 * width,
            num_layers=size.encoder_layers,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    )
