"""Train the packed transformer by flow matching on sections with packed context.

A noisy target is ``(1 - s) x + s e`` and the model predicts the velocity ``e - x`` at timestep
``1000 s``; only the target frames count, history is context. Every batch comes from one arm of the
mixture of orders, so all its sequences have one layout.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from framepack.drift.codebook import Codebook
from framepack.errors import InvalidRequest
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.lora import weight_shapes
from framepack.packing.schedule import BASE_KERNEL, Level, pooled_first
from framepack.training.average import trained_parameters
from framepack.training.cache import CachedClip, CachedPrompt
from framepack.training.distillation import DistillationSettings, Teacher
from framepack.training.examples import Arm, Batch, Choice, choose_batch, collate, same_size
from framepack.training.levels import NoiseLevels
from framepack.training.limits import check_ranges
from framepack.training.lora import LoraTraining, add_lora
from framepack.training.memory import MemorySettings, blocks_of, place
from framepack.training.optimizers import Optimizer, OptimizerSettings, make_optimizers
from framepack.training.processes import Processes, shard
from framepack.training.run import Run, RunSettings, identity_of
from framepack.training.runlog import Figures
from framepack.training.starts import NEW_LAYERS

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class TransformerTraining:
    """Settings of a run.

    Attributes:
        run: What all runs have.
        arms: The mixture of orders.
        batch: Examples a step.
        rate: Peak learning rate.
        optimizer: AdamW with states in fp32, or in eight bits where that saves something; or Muon
            for the blocks' matrices, which learns more from a step that takes longer.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        dropout: Share of examples without caption, for classifier-free guidance.
        levels: How noise levels are drawn.
        motion_weight: Additional weight of the error where a clip moves.
        guidance_scale: Distilled guidance that the model is told, always the same.
        held_out_batch: Examples of each arm that the held-out loss is measured on.
        accumulate: Parts that a step's batch is computed in, one after the other; changes memory
            and time, not the step.
        train: Of the weights: all, or only the layers that a base without packing lacks.
        lora: Train factors beside frozen weights instead.
        memory: What is saved at the cost of time.
        distillation: Learn the start's guided velocity instead of the clips' own.
    """

    run: RunSettings
    arms: tuple[Arm, ...]
    batch: int = 32
    rate: float = 1.5e-3
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    dropout: float = 0.1
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    motion_weight: float = 4.0
    guidance_scale: float = 10.0
    held_out_batch: int = 32
    accumulate: int = 1
    train: Literal["all", "new_layers"] = "all"
    lora: LoraTraining | None = None
    memory: MemorySettings = field(default_factory=MemorySettings)
    distillation: DistillationSettings | None = None

    def __post_init__(self) -> None:
        whole, least = (1, math.inf), (0, math.inf)
        check_ranges(self, "transformer", batch=whole, accumulate=whole, held_out_batch=whole)
        check_ranges(self, "transformer", rate=(0, math.inf, True), weight_decay=least)
        check_ranges(self, "transformer", dropout=(0, 1), motion_weight=least, guidance_scale=least)
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InvalidRequest("transformer.betas", "must be at least 0 and below 1")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise InvalidRequest("transformer.arms", "two have one name; each needs its own")


class Denoiser(nn.Module):
    """A transformer with one forward pass from batch to velocity, as FSDP needs it."""

    def __init__(self, model: PackedHunyuanVideo, guidance_scale: float) -> None:
        super().__init__()
        self.model = model
        self.guidance_scale = guidance_scale

    def forward(self, batch: Batch, levels: Tensor, noise: Tensor) -> Tensor:
        """See `predict_velocity`."""
        return predict_velocity(self.model, batch, levels, noise, self.guidance_scale)


@dataclass(frozen=True)
class Corpus:
    """What a run sees.

    Attributes:
        clips: To train on.
        held_out: To measure on.
        uncaptioned: The encoded empty prompt.
        key: Of all clips and the encoders.
        codebooks: For discretised history, by number of entries.
    """

    clips: Sequence[CachedClip]
    held_out: Sequence[CachedClip]
    uncaptioned: CachedPrompt
    key: str
    codebooks: Mapping[int, Codebook] = field(default_factory=dict)


class TransformerRun(Run[PackedHunyuanVideo]):
    """Trains a packed transformer."""

    def __init__(
        self,
        model: PackedHunyuanVideo,
        settings: TransformerTraining,
        corpus: Corpus,
        folder: Path,
        processes: Processes | None = None,
        device: torch.device = _CPU,
        teacher: PackedHunyuanVideo | None = None,
    ) -> None:
        """Start a run, or resume the one whose state lies in the folder.

        Args:
            model: Trained in place; gets factors, if that is what is trained.
            settings: Of the whole run.
            corpus: What to train on.
            folder: For state and log.
            processes: That train together.
            device: Of this process.
            teacher: The weights that the whole run started from, if it distils their guidance.

        Raises:
            InvalidRequest: The folder's state belongs to other settings or clips, the batch cannot
                be divided, or there is no teacher to distil.
        """
        processes = processes or Processes()
        self.settings, self.corpus = settings, corpus
        self._parts = check_parts(settings, processes)
        _check_kernels(model, settings)
        self.base_shapes = weight_shapes(model)
        _mark_trained(model, settings)
        self.denoiser = Denoiser(model.train(), settings.guidance_scale)
        place(model, settings.memory, device if processes.count == 1 else torch.device("cpu"))
        self._teacher = self._make_teacher(teacher, device)
        if processes.count > 1:
            shard(self.denoiser, blocks_of(model), device)
        identity = f"{identity_of(settings)} {corpus.key}"
        super().__init__(model, settings.run, folder, identity, processes)
        chosen = OptimizerSettings(
            settings.optimizer, settings.rate, settings.betas, settings.weight_decay
        )
        self.optimizers = make_optimizers(chosen, trained_parameters(model))
        self.resume()

    def losses(self) -> Iterator[Tensor]:
        """Of one batch of one arm, both drawn from the step's number."""
        settings = self.settings
        rng = random.Random(f"{settings.run.seed} {self.step}")
        (arm,) = rng.choices(settings.arms, [arm.share for arm in settings.arms])
        clips = same_size(self.corpus.clips, rng)
        choices = choose_batch(arm, clips, rng, settings.dropout, settings.batch)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        shape = (settings.batch, *choices[0].target_shape)
        levels = settings.levels.draw(settings.batch, generator, _tokens(shape))
        noise = torch.randn(shape, generator=generator)
        for part in self._own_parts():
            batch = self._batch(choices[part], levels[part])
            error = self._error(batch, levels[part], noise[part])
            yield (error * batch.weight.to(error)).mean() / settings.accumulate

    def _make_teacher(
        self, model: PackedHunyuanVideo | None, device: torch.device
    ) -> Teacher | None:
        chosen = self.settings.distillation
        if chosen is None:
            return None
        if model is None:
            raise InvalidRequest("distillation", "has nothing to learn from; name a start")
        denoiser = Denoiser(model.to(device), self.settings.guidance_scale)
        return Teacher(denoiser, chosen, self.corpus.uncaptioned)

    def _own_parts(self) -> Iterator[slice]:
        """Where this process's parts lie in the batch; gradients meet after the last one."""
        count, accumulate = self.processes.count, self.settings.accumulate
        size = self.settings.batch // self._parts
        for number in range(accumulate):
            if isinstance(self.denoiser, FSDPModule):
                self.denoiser.set_requires_gradient_sync(number == accumulate - 1)
            first = (number * count + self.processes.rank) * size
            yield slice(first, first + size)

    def measure(self) -> Figures:
        """Unweighted loss of each arm at fixed examples, noise levels and noise."""
        with torch.no_grad(), self.averaged():
            return self._held_out()

    def _held_out(self) -> Figures:
        settings, figures = self.settings, {}
        count = settings.held_out_batch
        at_once = count if self._parts == 1 else settings.batch // self._parts
        levels = torch.linspace(0.02, 0.98, count)
        for arm in settings.arms:
            rng = random.Random(f"held out {arm.name}")
            clips = same_size(self.corpus.held_out, rng)
            choices = choose_batch(arm, clips, rng, 0.0, count)
            shape = (count, *choices[0].target_shape)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            total = 0.0
            for first in range(0, count, at_once):
                part = slice(first, first + at_once)
                batch = self._batch(choices[part], levels[part])
                error = self._error(batch, levels[part], noise[part])
                total += error.mean().item() * len(error)
            figures[f"held_out_{arm.name}"] = total / count
        return figures

    def _batch(self, choices: Sequence[Choice], levels: Tensor) -> Batch:
        examples = [
            choice.cut(level, self.corpus.codebooks)
            for choice, level in zip(choices, levels.tolist(), strict=True)
        ]
        return collate(examples, self.corpus.uncaptioned)

    def _error(self, batch: Batch, levels: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the velocity."""
        with self.autocast():
            velocity: Tensor = self.denoiser(batch, levels, noise)
            if self._teacher is None:
                wanted = noise - batch.target
            else:
                wanted = self._teacher.velocity(batch, levels, noise)
        return (velocity.float() - wanted.to(velocity.device)).square()


def predict_velocity(
    model: PackedHunyuanVideo, batch: Batch, levels: Tensor, noise: Tensor, guidance_scale: float
) -> Tensor:
    """The model's velocity at noise levels (b,), by the calls that generation makes."""
    share = levels[:, None, None, None, None]
    noisy = ((1 - share) * batch.target + share * noise).to(model.device, model.dtype)
    height, width = batch.target.shape[-2:]
    prepared = model.prepare(
        batch.levels, batch.positions, (height, width), batch.condition, guidance_scale
    )
    return model.predict(noisy, (levels * 1000).to(noisy), prepared)


def check_parts(settings: TransformerTraining, processes: Processes) -> int:
    """Parts of a batch, over all processes. Raises InvalidRequest if they do not come out even."""
    parts = settings.accumulate * processes.count
    if settings.batch % parts:
        raise InvalidRequest(
            "batch",
            f"{settings.batch} examples cannot be divided among {processes.count} processes "
            f"times {settings.accumulate} parts",
        )
    if processes.count > 1 and settings.distillation is not None:
        raise InvalidRequest("distillation", "is for one process, which holds the teacher too")
    if processes.count > 1 and settings.memory.stores:
        raise InvalidRequest(
            "memory", "float8 and swapped_blocks are for one process; several share the weights"
        )
    return parts


def _check_kernels(model: PackedHunyuanVideo, settings: TransformerTraining) -> None:
    """Raises InvalidRequest for a schedule with a kernel that the model has no projection for."""
    known = model.clean_x_embedder.kernels
    for arm in settings.arms:
        (section, *_) = arm.plan(arm.sections[0])
        for level in section.context:
            if pooled_first(level.kernel)[1] not in known:
                raise InvalidRequest(
                    f"arms.{arm.name}",
                    f"the model has no projection for kernel {level.kernel}, only for "
                    f"{', '.join(map(str, known))}: write a schedule of these",
                )


def _mark_trained(model: PackedHunyuanVideo, settings: TransformerTraining) -> None:
    """Let gradients reach what is to be trained, factors included, and nothing else."""
    if settings.lora is not None:
        add_lora(model, settings.lora, settings.run.seed)
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(settings.train == "all" or name.startswith(NEW_LAYERS))


def _tokens(shape: tuple[int, ...]) -> int:
    """Target tokens of one example of (b, c, t, h, w)."""
    _, _, frames, height, width = shape
    return Level(frames, BASE_KERNEL).tokens(height, width)
