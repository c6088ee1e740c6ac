"""What memory a run will take, before anything is loaded: counted, and where it must be, estimated.

Weights, gradients, optimiser states and averages are counted from the layout on PyTorch's meta
device. Activations are estimated by the number of bytes that a block holds for each token and
channel, which a test measures; with checkpointing one block holds them, and the others their input.
What PyTorch's allocator loses to fragments, and the encoders of the stage ``cache``, come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import nn

from framepack.generation.plan import GENERATION_CONFIGS
from framepack.models.float8 import stored_bytes
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.loading import CONFIG, read_json
from framepack.models.lora import weight_shapes
from framepack.models.tiny import SIZES
from framepack.packing.schedule import BASE_KERNEL, Level
from framepack.training.config import TrainingConfig, WorldData
from framepack.training.memory import blocks_of
from framepack.training.optimizers import for_muon
from framepack.training.processes import Processes
from framepack.training.starts import NEW_LAYERS
from framepack.training.transformer import TransformerTraining, check_parts

BYTES_PER_ACTIVATION = {"weights": 53, "lora": 45}
"""For each token and channel of a block under autocast with fused attention, by what is trained:
beside frozen weights, layers need not keep what they were given."""

TEXT_TOKENS = 512
"""Text and image tokens, about."""

_HALF, _WHOLE = 2, 4
_STATES = {"adamw": 8, "adamw8bit": 2, "muon": 8}
"""Bytes of optimiser states for each trained parameter; Muon's matrices have half of that."""


@dataclass(frozen=True)
class Estimate:
    """Of one process.

    Attributes:
        total: Parameters of the model, factors included.
        trained: Those that are trained.
        tokens: Of the longest sequence.
        device: Bytes on the device by what they hold.
        host: Bytes of swapped weights.
    """

    total: int
    trained: int
    tokens: int
    device: Mapping[str, int]
    host: int

    @property
    def sum(self) -> int:
        """Bytes on the device."""
        return sum(self.device.values())


def estimate(config: TrainingConfig, processes: int = 1) -> Estimate:
    """Estimate a configuration's transformer run.

    Args:
        config: What is to be trained.
        processes: That share weights, states and batch, one a GPU.

    Raises:
        InvalidRequest: The batch cannot be divided so, or memory is to be saved in ways that only
            one process has.
    """
    check_parts(config.transformer, Processes(0, processes))
    with torch.device("meta"):
        model = PackedHunyuanVideo(_layout(config))
    settings = config.transformer
    trained, frozen = _trained(model, settings), _frozen(model, settings)
    tokens = _tokens(config)
    rows = settings.batch // settings.accumulate // processes
    blocks = blocks_of(model)
    inputs = tokens * rows * model.config.width
    held = 1 if settings.memory.checkpointing or settings.memory.stores else len(blocks)
    stored = frozen["device"] // processes
    each = _WHOLE if settings.memory.frozen == "float32" else _HALF
    in_use = max(map(_size, blocks)) * _HALF if settings.memory.stores else 0
    kept = BYTES_PER_ACTIVATION["weights" if settings.lora is None else "lora"]
    return Estimate(
        total=_size(model) + (trained if settings.lora is not None else 0),
        trained=trained,
        tokens=tokens,
        device={
            "frozen weights": stored,
            "weights of the block at work": in_use,
            "trained weights": _WHOLE * trained // processes,
            "gradients": _WHOLE * trained // processes,
            "optimiser states": _states(model, settings, trained) // processes,
            "averaged weights": _WHOLE * trained // processes,
            "teacher's weights": 0 if settings.distillation is None else each * _size(model),
            "weights cast by autocast": _HALF * trained // processes,
            "activations": inputs * (kept * held + each * (len(blocks) - held)),
        },
        host=frozen["host"],
    )


def as_table(found: Estimate) -> str:
    """For a terminal, in GiB."""
    lines = [
        f"{found.trained / 1e6:,.1f} M of {found.total / 1e6:,.1f} M parameters are trained; "
        f"the longest sequence has {found.tokens:,} tokens"
    ]
    rows = [
        *found.device.items(),
        ("on the device", found.sum),
        ("on the host, swapped", found.host),
    ]
    lines += [f"  {name:<30} {size / 2**30:8.2f} GiB" for name, size in rows]
    return "\n".join(lines) + "\n"


def _layout(config: TrainingConfig) -> HunyuanVideoConfig:
    """From the checkpoint if it is here, else the preset's."""
    named = config.start not in (None, "tiny")
    folders = (Path(str(config.start), "transformer"), Path(str(config.start))) if named else ()
    for path in (folder / CONFIG for folder in folders):
        if path.is_file():
            return HunyuanVideoConfig.from_json(read_json(path))
    return SIZES[config.size].transformer if config.preset == "tiny" else HunyuanVideoConfig()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _trained(model: PackedHunyuanVideo, settings: TransformerTraining) -> int:
    if settings.lora is not None:
        shapes = weight_shapes(model)
        chosen = [shapes[name] for name in settings.lora.chosen(model)]
        return sum(settings.lora.rank * (shape[0] + prod(shape[1:])) for shape in chosen)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if settings.train == "all" or name.startswith(NEW_LAYERS)
    )


def _states(model: PackedHunyuanVideo, settings: TransformerTraining, trained: int) -> int:
    """Bytes of optimiser states of all processes."""
    whole = _STATES[settings.optimizer] * trained
    if settings.optimizer != "muon" or settings.train == "new_layers":
        return whole
    if settings.lora is not None:  # factors are matrices of blocks, unless others were included
        return whole // 2
    matrices = sum(p.numel() for name, p in model.named_parameters() if for_muon(name, p))
    return whole - _STATES[settings.optimizer] // 2 * matrices


def _frozen(model: PackedHunyuanVideo, settings: TransformerTraining) -> dict[str, int]:
    """Bytes of frozen weights, on the device and on the host."""
    if settings.lora is None:
        trained = _trained(model, settings)
        return {"device": _WHOLE * (_size(model) - trained), "host": 0}
    memory, blocks = settings.memory, blocks_of(model)
    each = _WHOLE if memory.frozen == "float32" else _HALF

    sizes = [
        stored_bytes(block, lambda p: p.numel() * each, float8=memory.frozen == "float8")
        for block in blocks
    ]
    staying = len(blocks) - memory.swapped_blocks
    around = each * (_size(model) - sum(map(_size, blocks)))
    return {"device": around + sum(sizes[:staying]), "host": sum(sizes[staying:])}


def _tokens(config: TrainingConfig) -> int:
    """Of the longest sequence of any arm, at the largest size."""
    data, presets = config.data, GENERATION_CONFIGS[config.preset]
    sizes = [(data.pixels, data.pixels)] if isinstance(data, WorldData) else presets.buckets
    longest = 0
    for arm in config.transformer.arms:
        for height, width in sizes:
            size = height // presets.spatial_compression, width // presets.spatial_compression
            section = arm.plan(arm.sections[0])[0]
            levels = [Level(len(c.frames), c.kernel) for c in section.context]
            levels.append(Level(len(section.frames), BASE_KERNEL))
            longest = max(longest, sum(level.tokens(*size) for level in levels))
    return longest + TEXT_TOKENS
