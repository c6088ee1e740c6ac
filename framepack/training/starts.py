"""Where a transformer's training starts: from nothing, or from a base that was never packed.

HunyuanVideo lacks two things that FramePack adds: a projection for each kernel of packed history,
and one for the image encoder's states. `complete` gives a base both, so that it can be fine-tuned
into a packed model, the new layers alone first or everything at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from framepack.models.blocks import Modulation
from framepack.models.embedding import RefinerNormOut
from framepack.models.hunyuan_video import FinalNorm, HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.loading import (
    CONFIG,
    Differences,
    load_weights,
    read_json,
    save_transformer,
)
from framepack.packing.patchify import interpolate_projection, projection_name

NEW_LAYERS = ("clean_x_embedder.", "image_projection.")
"""Names of parameters that a base without packing lacks begin so."""

_MARKS = ("has_clean_x_embedder", "has_image_proj")
"""Keys of config.json that a base without packing has not, or denies."""


def is_base(folder: Path) -> bool:
    """Whether a transformer's folder holds a base without packing."""
    return not read_json(folder / CONFIG).get("has_clean_x_embedder", False)


def complete(folder: Path) -> None:
    """Give the base in a folder what it lacks, in place.

    The projections of history start as the base patches' average, that of the image says nothing
    yet: its tokens are zeros.

    Raises:
        WeightsError: The folder holds something else.
    """
    stated: dict[str, Any] = read_json(folder / CONFIG)
    config = HunyuanVideoConfig.from_json({k: v for k, v in stated.items() if k not in _MARKS})
    model = PackedHunyuanVideo(config)
    load_weights(model, folder, "cpu", torch.float32, Differences(may_lack=NEW_LAYERS))
    nn.init.zeros_(model.image_projection.down.weight)
    nn.init.zeros_(model.image_projection.down.bias)
    start_new_layers(model)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_transformer(model, folder)


@torch.no_grad()
def start_transformer(model: PackedHunyuanVideo) -> None:
    """A start for training from nothing.

    Modulations, gates and the output are zero, so every block begins as the identity (AdaLN-Zero,
    Peebles and Xie 2023); linear layers keep the variance of what they get; packed history starts
    as the base patches' average (section 3.1 of the paper).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, (Modulation, RefinerNormOut, FinalNorm)):
            nn.init.zeros_(module.linear.weight)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.xavier_uniform_(model.x_embedder.proj.weight.flatten(1))
    start_new_layers(model)


@torch.no_grad()
def start_new_layers(model: PackedHunyuanVideo) -> None:
    """Give the projections of packed history the base projection's weights, interpolated.

    All that a base model without packing lacks, so that it can be fine-tuned into one.
    """
    base = model.x_embedder.proj
    for kernel in model.clean_x_embedder.kernels:
        projection = model.clean_x_embedder.get_submodule(projection_name(kernel))
        projection.get_parameter("weight").copy_(interpolate_projection(base.weight, kernel))
        projection.get_parameter("bias").copy_(base.get_parameter("bias"))
