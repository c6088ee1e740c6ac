"""Complete folders of small models with seeded random weights: ``tiny`` and ``nano``.

Same classes, same layout of folders and files as the released checkpoints, so the same loading
code serves them; only the sizes differ. ``tiny`` is what a CPU can train and sample in seconds,
``nano`` is for tests of the machinery around the models. Untrained, their pictures are noise.

The text models share a closed vocabulary of whole words (colours, shapes, motions); a word outside
it becomes the unknown token, so any prompt is accepted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from framepack.models.checkpoints import without_progress_bars
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.loading import save_transformer

_SEEDING = threading.Lock()
"""Held while weights are drawn from torch's global generator, which all threads share."""

_SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, _UNK, _BOS, EOS = range(len(_SPECIAL))
"""Numbers of the special tokens."""

_WORDS = (
    "a an and of on over the that with in to from at is are , . : video shows "
    "red green blue yellow magenta cyan orange white black purple pink "
    "dark light grey brown navy olive teal plain striped checkered dotted "
    "ball square triangle ring circle shape shapes two one small large "
    "slides moves bounces circles drifts spins stays slowly quickly still "
    "left right up down around diagonally floor background"
)
WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""The closed vocabulary, special tokens left out."""

VOCABULARY = (*_SPECIAL, *WORDS)
"""All tokens, by number."""

PROMPT = {
    "prompt_template": "the video shows {}",
    "prompt_crop_start": 4,
    "prompt_max_tokens": 48,
}
"""Settings for framepack.json; the first token is the beginning of text."""

_POOLED_TOKENS = 32
_IMAGE_SIDE, _IMAGE_PATCH = 64, 16


@dataclass(frozen=True)
class Size:
    """Widths and depths of one folder.

    Attributes:
        transformer: The packed transformer; states the encoders' widths too.
        encoder_layers: Layers of the text and image towers; the Llama has two more, never run.
        vae_channels: Of the autoencoder's three stages.
        vae_groups: Groups of its norms; divides every width.
    """

    transformer: HunyuanVideoConfig
    encoder_layers: int
    vae_channels: tuple[int, int, int]
    vae_groups: int


SIZES: Mapping[str, Size] = {
    "tiny": Size(
        HunyuanVideoConfig(
            num_attention_heads=6,
            attention_head_dim=32,
            num_layers=2,
            num_single_layers=4,
            num_refiner_layers=1,
            text_embed_dim=96,
            pooled_projection_dim=64,
            image_proj_dim=64,
            rope_axes_dim=(8, 12, 12),
        ),
        encoder_layers=2,
        vae_channels=(16, 32, 64),
        vae_groups=4,
    ),
    "nano": Size(
        HunyuanVideoConfig(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=16,
            image_proj_dim=16,
            rope_axes_dim=(4, 6, 6),
        ),
        encoder_layers=1,
        vae_channels=(4, 8, 8),
        vae_groups=2,
    ),
}


def build_folder(path: Path, size: str = "tiny", seed: int = 0) -> None:
    """Write a folder that `framepack.presets.load_preset` reads as preset ``tiny``.

    The same size and seed give the same files, byte for byte.

    Args:
        path: Created if absent; files in it are overwritten.
        size: Key of `SIZES`.
        seed: Of all random weights.
    """
    chosen = SIZES[size]
    path.mkdir(parents=True, exist_ok=True)
    with seeded(seed):
        save_transformer(PackedHunyuanVideo(chosen.transformer), path / "transformer")
        _vae(chosen).save_pretrained(path / "vae")
        _llama(chosen).save_pretrained(path / "text_encoder")
        _clip(chosen).save_pretrained(path / "text_encoder_2")
        _siglip(chosen).save_pretrained(path / "image_encoder")
    for name, length in (("tokenizer", None), ("tokenizer_2", _POOLED_TOKENS)):
        make_tokenizer(length).save_pretrained(path / name)
    write_json(path / "feature_extractor" / "preprocessor_config.json", _preprocessing())
    write_json(path / "framepack.json", PROMPT)


def untrained_models(size: str) -> tuple[list[nn.Module], Any]:
    """The encoders as they run, and the autoencoder, with whatever weights torch gives them."""
    chosen = SIZES[size]
    return [_llama(chosen), _clip(chosen), _siglip(chosen)], _vae(chosen)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's global generator as if nobody else did, and leave it as it was."""
    with _SEEDING, torch.random.fork_rng(devices=[]), without_progress_bars():
        torch.manual_seed(seed)
        yield


def _vae(size: Size) -> Any:
    """Three stages still give 8 x 8 x 4; attention adds nothing at this width."""
    return AutoencoderKLHunyuanVideo(
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        block_out_channels=size.vae_channels,
        layers_per_block=1,
        norm_num_groups=size.vae_groups,
        mid_block_add_attention=False,
    )


def _llama(size: Size) -> Any:
    width = size.transformer.text_embed_dim
    return LlamaModel(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=size.encoder_layers + 2,
            num_attention_heads=2,
            pad_token_id=PAD,
            bos_token_id=_BOS,
            eos_token_id=EOS,
        )
    )


def _clip(size: Size) -> Any:
    width = size.transformer.pooled_projection_dim
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=size.encoder_layers,
            num_attention_heads=2,
            max_position_embeddings=_POOLED_TOKENS,
            pad_token_id=PAD,
            bos_token_id=_BOS,
            eos_token_id=EOS,
        )
    )


def _siglip(size: Size) -> Any:
    width = size.transformer.image_proj_dim
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=size.encoder_layers,
            num_attention_heads=2,
            image_size=_IMAGE_SIDE,
            patch_size=_IMAGE_PATCH,
        )
    )


def make_tokenizer(length: int | None = None, *, begins: bool = True) -> Any:
    """A tokenizer of whole words.

    Args:
        length: Tokens its model takes, if that is limited.
        begins: Put a token in front of each text, as Llama and CLIP do and T5 does not.
    """
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=_SPECIAL[_UNK]))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>" if begins else "$A <eos>",
        special_tokens=[("<bos>", _BOS), ("<eos>", EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_SPECIAL[PAD],
        unk_token=_SPECIAL[_UNK],
        bos_token=_SPECIAL[_BOS],
        eos_token=_SPECIAL[EOS],
        **({} if length is None else {"model_max_length": length}),
    )


def _preprocessing() -> dict[str, Any]:
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": _IMAGE_SIDE, "width": _IMAGE_SIDE},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, its folder made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
