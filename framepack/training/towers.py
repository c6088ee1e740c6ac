"""Random text towers that tell words apart.

``tiny`` keeps its text and image towers random and frozen: over a closed vocabulary a random map of
words is as good a code as a learned one, and states can be cached. The usual initial deviation of
0.02 is too small for that: it leaves every prompt's states nearly the same. Here embeddings have
unit variance and every projection keeps the variance of what it gets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModel, LlamaModel

from framepack.models.checkpoints import load_pretrained, without_progress_bars

_POSITION = 0.3
"""Deviation of CLIP's position embeddings beside unit ones of words."""


def widen_text_towers(folder: Path, seed: int) -> None:
    """Draw the text towers of a folder anew, in place, and store them in half precision."""
    generator = torch.Generator().manual_seed(seed)
    for model_class, name in ((LlamaModel, "text_encoder"), (CLIPTextModel, "text_encoder_2")):
        model = load_pretrained(model_class, folder / name, torch.device("cpu"), torch.float32)
        _draw(model, generator)
        with without_progress_bars():
            model.half().save_pretrained(folder / name)


@torch.no_grad()
def _draw(model: Any, generator: torch.Generator) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            deviation = _POSITION if "position" in name else 1.0
        elif isinstance(module, nn.Linear):
            deviation = module.in_features**-0.5
        else:
            continue
        module.weight.normal_(0.0, deviation, generator=generator)
