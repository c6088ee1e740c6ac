"""Prompts as the released transformers read them: states of a Llama, pooled output of a CLIP.

The Llama sees the prompt inside a chat template; the template's own tokens are cropped away. The
states used are those *before* the last two layers (``hidden_states[-3]``), so these layers and the
final norm are dropped after loading. Both models are causal: padding behind the prompt cannot
change it and is not computed for the Llama.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel, PreTrainedTokenizerFast

from framepack.errors import WeightsError
from framepack.models.checkpoints import load_pretrained

UNUSED_LAYERS = 2
"""Last layers of the Llama that never matter."""

_RELEASED_SHA256 = "a52f68dde3637b127592fffe9e2483a5d0563987a49db6ddb9b06146f2ba7cb5"


@dataclass(frozen=True)
class PromptTemplate:
    """What surrounds a prompt.

    Attributes:
        text: With ``{}`` for the prompt.
        crop_start: Tokens in front of the prompt, that of the beginning of text included.
        max_tokens: Tokens kept from there on; a longer prompt is cut.
    """

    text: str
    crop_start: int
    max_tokens: int


def released_template() -> PromptTemplate:
    """HunyuanVideo's "describe the video" chat template, from the installed diffusers.

    Raises:
        WeightsError: This version of diffusers ships another text than the models were trained on.
    """
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import (  # slow to import
        DEFAULT_PROMPT_TEMPLATE,
    )

    text: str = DEFAULT_PROMPT_TEMPLATE["template"]
    if hashlib.sha256(text.encode()).hexdigest() != _RELEASED_SHA256:
        raise WeightsError("diffusers' HunyuanVideo prompt template is not the released one")
    return PromptTemplate(text, crop_start=95, max_tokens=256)


class PromptEncoder:
    """A prompt to the states of its tokens."""

    def __init__(self, model: Any, tokenizer: Any, template: PromptTemplate) -> None:
        """Takes over the model, which loses its unused layers.

        Raises:
            WeightsError: The tokenizer cuts the template differently from what it says.
        """
        del model.layers[-UNUSED_LAYERS:]
        model.config.num_hidden_layers = len(model.layers)
        model.norm = nn.Identity()
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.template = template
        self._check_crop()

    @torch.inference_mode()
    def encode(self, prompt: str) -> Float[Tensor, "1 l d"]:
        """States of the prompt's tokens and the template's end, at most ``max_tokens``."""
        ids = torch.tensor([self._ids(prompt)], device=self.model.device)
        states: Tensor = self.model(input_ids=ids, use_cache=False).last_hidden_state
        return states[:, self.template.crop_start :]

    def _ids(self, prompt: str) -> list[int]:
        text = self.template.text.format(prompt)
        limit = self.template.crop_start + self.template.max_tokens
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        return ids

    def _check_crop(self) -> None:
        """Encodings of two prompts must part exactly where the crop begins."""
        pair = zip(self._ids("a"), self._ids("7"), strict=False)
        shared = next((n for n, (a, b) in enumerate(pair) if a != b), None)
        if shared != self.template.crop_start:
            raise WeightsError(
                f"the tokenizer puts {shared} tokens in front of the prompt instead of "
                f"{self.template.crop_start}: it is not the text encoder's"
            )


class PooledEncoder:
    """A prompt, without template, to one vector."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode(self, prompt: str) -> Float[Tensor, "1 d"]:
        """CLIP's pooled output; the prompt is cut at the model's length."""
        ids = self.tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=self.model.config.max_position_embeddings,
            return_tensors="pt",
        )["input_ids"]
        pooled: Tensor = self.model(input_ids=ids.to(self.model.device)).pooler_output
        return pooled


def load_prompt_encoder(
    folder: Path,
    tokenizer: Path,
    template: PromptTemplate,
    device: torch.device,
    dtype: torch.dtype,
) -> PromptEncoder:
    """Load a Llama and its tokenizer. Raises WeightsError if a folder does not hold them."""
    model = load_pretrained(LlamaModel, folder, device, dtype)
    return PromptEncoder(model, load_tokenizer(tokenizer), template)


def load_pooled_encoder(
    folder: Path, tokenizer: Path, device: torch.device, dtype: torch.dtype
) -> PooledEncoder:
    """Load a CLIP text model and its tokenizer. Raises WeightsError like `load_prompt_encoder`."""
    model = load_pretrained(CLIPTextModel, folder, device, dtype)
    return PooledEncoder(model, load_tokenizer(tokenizer))


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer from its folder. Raises WeightsError if there is none.

    tokenizer.json is taken as it stands; a named tokenizer class might rebuild parts of it.
    """
    whole = (folder / "tokenizer.json").is_file()
    tokenizer_class = PreTrainedTokenizerFast if whole else AutoTokenizer
    try:
        return tokenizer_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"no tokenizer in {folder}: {error}") from error
