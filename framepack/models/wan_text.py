"""Prompts as Wan reads them: states of a UMT5 encoder, padded with zeros.

The encoder sees the prompt's own tokens; behind them the transformer reads zeros up to a fixed
length, and attends to those too, so they belong to the prompt. Wan has neither pooled text nor
image tokens.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import UMT5EncoderModel

from framepack.models.checkpoints import load_pretrained
from framepack.models.text import load_tokenizer

RELEASED_TOKENS = 512
"""Length of the text that Wan and Helios were trained with."""


class WanPromptEncoder:
    """A prompt to the states of its tokens and the zeros behind them."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = RELEASED_TOKENS) -> None:
        """Args: model: UMT5 encoder. tokenizer: Its own. max_tokens: Length of the result."""
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def encode(self, prompt: str) -> Float[Tensor, "1 l d"]:
        """States of a prompt, which is cut at ``max_tokens``; zeros up to there."""
        ids = self.tokenizer(cleaned(prompt), truncation=True, max_length=self.max_tokens)
        tokens = torch.tensor([ids["input_ids"]], device=self.model.device)
        # Padding behind a mask cannot change the prompt's states, so it is not computed.
        states: Tensor = self.model(tokens).last_hidden_state
        return F.pad(states, (0, 0, 0, self.max_tokens - states.shape[1]))


def cleaned(prompt: str) -> str:
    """A prompt as captions were cleaned for training.

    Mojibake and fancy quotes are mended by ftfy, HTML entities resolved (twice: some were escaped
    twice), runs of spaces made one.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class NoPooledText:
    """In the place of a `framepack.models.text.PooledEncoder`."""

    def encode(self, prompt: str) -> Float[Tensor, "1 0"]:
        """Nothing."""
        return torch.empty(1, 0)


class NoImageTokens:
    """In the place of a `framepack.models.image.ImageEncoder`: the picture is history alone."""

    def encode(self, pixels: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "1 0 0"]:
        """Nothing."""
        return torch.empty(1, 0, 0)

    def absent(self) -> Float[Tensor, "1 0 0"]:
        """Nothing."""
        return torch.empty(1, 0, 0)


def load_wan_prompt_encoder(
    folder: Path, tokenizer: Path, max_tokens: int, device: torch.device, dtype: torch.dtype
) -> WanPromptEncoder:
    """Load a UMT5 encoder and its tokenizer. Raises WeightsError if a folder holds none."""
    model = load_pretrained(UMT5EncoderModel, folder, device, dtype)
    return WanPromptEncoder(model, load_tokenizer(tokenizer), max_tokens)
