"""Train the packed transformer by flow matching on sections with packed context.

A noisy target is ``(1 - s) x + s e`` and the model predicts the velocity ``e - x`` at timestep
``1000 s``; only the target frames count, history is context. The noise level's distribution is
uniform, shifted as sampling is. Every batch comes from one arm of the mixture of orders, so all its
sequences have one layout.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from framepack.errors import InvalidRequest
from framepack.models.blocks import Modulation
from framepack.models.embedding import RefinerNormOut
from framepack.models.hunyuan_video import FinalNorm, PackedHunyuanVideo
from framepack.models.lora import weight_shapes
from framepack.packing.patchify import interpolate_projection, projection_name
from framepack.training.cache import CachedClip, CachedPrompt
from framepack.training.examples import Arm, Batch, choose, collate
from framepack.training.lora import LoraTraining, add_lora
from framepack.training.processes import Processes, shard
from framepack.training.run import PEAK, Run, RunSettings, identity_of
from framepack.training.runlog import Figures


@dataclass(frozen=True)
class TransformerTraining:
    """Settings of a run.

    Attributes:
        run: What all runs have.
        arms: The mixture of orders.
        batch: Examples a step.
        rate: Peak learning rate of AdamW.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        dropout: Share of examples without caption, for classifier-free guidance.
        shift: Of the noise levels towards 1: ``shift * u / (1 + (shift - 1) * u)``.
        motion_weight: Additional weight of the error where a clip moves.
        guidance_scale: Distilled guidance that the model is told, always the same.
        held_out_batch: Examples of each arm that the held-out loss is measured on.
        accumulate: Parts that a step's batch is computed in, one after the other; changes memory
            and time, not the step.
        lora: Train factors beside frozen weights; None trains the weights.
    """

    run: RunSettings
    arms: tuple[Arm, ...]
    batch: int = 32
    rate: float = 1.5e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    dropout: float = 0.1
    shift: float = 2.0
    motion_weight: float = 4.0
    guidance_scale: float = 10.0
    held_out_batch: int = 32
    accumulate: int = 1
    lora: LoraTraining | None = None


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
    """What a run sees: clips to train on, clips to measure on, the encoded empty prompt."""

    clips: Sequence[CachedClip]
    held_out: Sequence[CachedClip]
    uncaptioned: CachedPrompt
    key: str


class TransformerRun(Run[PackedHunyuanVideo]):
    """Trains a packed transformer."""

    def __init__(
        self,
        model: PackedHunyuanVideo,
        settings: TransformerTraining,
        corpus: Corpus,
        folder: Path,
        processes: Processes | None = None,
    ) -> None:
        """Start a run, or resume the one whose state lies in the folder.

        Args:
            model: Trained in place; gets factors, if that is what is trained.
            settings: Of the whole run.
            corpus: What to train on.
            folder: For state and log.
            processes: That train together.

        Raises:
            InvalidRequest: The folder's state belongs to other settings or clips, or the batch
                cannot be divided.
        """
        processes = processes or Processes()
        self.settings, self.corpus = settings, corpus
        self._parts = settings.accumulate * processes.count
        if settings.batch % self._parts:
            raise InvalidRequest(
                "batch",
                f"{settings.batch} examples cannot be divided among {processes.count} processes "
                f"times {settings.accumulate} parts",
            )
        self.base_shapes = weight_shapes(model)
        if settings.lora is None:
            model.requires_grad_()
        else:
            add_lora(model, settings.lora, settings.run.seed)
        self.denoiser = Denoiser(model.train(), settings.guidance_scale)
        if processes.count > 1:
            shard(self.denoiser, (*model.transformer_blocks, *model.single_transformer_blocks))
        identity = f"{identity_of(settings)} {corpus.key}"
        super().__init__(model, settings.run, folder, identity, processes)
        group = {"params": self.average.parameters, PEAK: settings.rate}
        self.optimizers = [
            torch.optim.AdamW(
                [group], betas=settings.betas, weight_decay=settings.weight_decay, fused=True
            )
        ]
        self.resume()

    def losses(self) -> Iterator[Tensor]:
        """Of one batch of one arm, both drawn from the step's number."""
        settings = self.settings
        rng = random.Random(f"{settings.run.seed} {self.step}")
        (arm,) = rng.choices(settings.arms, [arm.share for arm in settings.arms])
        choices = [
            choose(arm, self.corpus.clips, rng, settings.dropout) for _ in range(settings.batch)
        ]
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        levels = shifted(torch.rand(settings.batch, generator=generator), settings.shift)
        shape = (settings.batch, *choices[0].target_shape)
        noise = torch.randn(shape, generator=generator)
        for part in self._own_parts():
            batch = collate([choice.cut() for choice in choices[part]], self.corpus.uncaptioned)
            error = self._error(batch, levels[part], noise[part])
            yield (error * batch.weight.to(error)).mean() / settings.accumulate

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
        count = self.settings.held_out_batch
        levels = torch.linspace(0.02, 0.98, count)
        figures = {}
        for arm in self.settings.arms:
            rng = random.Random(f"held out {arm.name}")
            batch = collate(
                [choose(arm, self.corpus.held_out, rng, 0.0).cut() for _ in range(count)],
                self.corpus.uncaptioned,
            )
            noise = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
            figures[f"held_out_{arm.name}"] = self._error(batch, levels, noise).mean().item()
        return figures

    def _error(self, batch: Batch, levels: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the velocity."""
        with self.autocast():
            velocity: Tensor = self.denoiser(batch, levels, noise)
        return (velocity.float() - (noise - batch.target).to(velocity.device)).square()


def predict_velocity(
    model: PackedHunyuanVideo, batch: Batch, levels: Tensor, noise: Tensor, guidance_scale: float
) -> Tensor:
    """The model's velocity at noise levels (b,), by the calls that generation makes."""
    share = levels[:, None, None, None, None]
    noisy = ((1 - share) * batch.target + share * noise).to(model.device)
    height, width = batch.target.shape[-2:]
    prepared = model.prepare(
        batch.levels, batch.positions, (height, width), batch.condition, guidance_scale
    )
    return model.predict(noisy, (levels * 1000).to(model.device), prepared)


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards 1, as sampling moves its own."""
    return shift * uniform / (1 + (shift - 1) * uniform)


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
