"""Train the packed transformer by flow matching on sections with packed context.

A noisy target is ``(1 - s) x + s e`` and the model predicts the velocity ``e - x`` at timestep
``1000 s``; only the target frames count, history is context. The noise level's distribution is
uniform, shifted as sampling is. Every batch comes from one arm of the mixture of orders, so all its
sequences have one layout.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from framepack.models.blocks import Modulation
from framepack.models.embedding import RefinerNormOut
from framepack.models.hunyuan_video import FinalNorm, PackedHunyuanVideo
from framepack.packing.patchify import interpolate_projection, projection_name
from framepack.training.cache import CachedClip, CachedPrompt
from framepack.training.examples import Arm, Batch, collate, draw
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
    ) -> None:
        """Start a run, or resume the one whose state lies in the folder.

        Raises:
            InvalidRequest: The folder's state belongs to other settings or clips.
        """
        super().__init__(model, settings.run, folder, f"{identity_of(settings)} {corpus.key}")
        self.settings, self.corpus = settings, corpus
        group = {"params": list(model.parameters()), PEAK: settings.rate}
        self.optimizers = [
            torch.optim.AdamW(
                [group], betas=settings.betas, weight_decay=settings.weight_decay, fused=True
            )
        ]
        self.resume()

    def loss(self) -> Tensor:
        """Of one batch of one arm, both drawn from the step's number."""
        settings = self.settings
        rng = random.Random(f"{settings.run.seed} {self.step}")
        (arm,) = rng.choices(settings.arms, [arm.share for arm in settings.arms])
        examples = [
            draw(arm, self.corpus.clips, rng, settings.dropout) for _ in range(settings.batch)
        ]
        batch = collate(examples, self.corpus.uncaptioned)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        levels = shifted(torch.rand(settings.batch, generator=generator), settings.shift)
        return self._error(self.model, batch, levels, generator)

    @torch.inference_mode()
    def measure(self) -> Figures:
        """Unweighted loss of each arm at fixed examples, noise levels and noise."""
        count = self.settings.held_out_batch
        levels = torch.linspace(0.02, 0.98, count)
        figures = {}
        for arm in self.settings.arms:
            rng = random.Random(f"held out {arm.name}")
            batch = collate(
                [draw(arm, self.corpus.held_out, rng, 0.0) for _ in range(count)],
                self.corpus.uncaptioned,
            )
            generator = torch.Generator().manual_seed(0)
            error = self._error(self.average.model, batch, levels, generator, weighted=False)
            figures[f"held_out_{arm.name}"] = error.item()
        return figures

    def _error(
        self,
        model: PackedHunyuanVideo,
        batch: Batch,
        levels: Tensor,
        generator: torch.Generator,
        *,
        weighted: bool = True,
    ) -> Tensor:
        """Mean squared error of the velocity."""
        noise = torch.randn(batch.target.shape, generator=generator)
        with self.autocast():
            velocity = predict_velocity(model, batch, levels, noise, self.settings.guidance_scale)
        error = (velocity.float() - (noise - batch.target)).square()
        return (error * batch.weight).mean() if weighted else error.mean()


def predict_velocity(
    model: PackedHunyuanVideo, batch: Batch, levels: Tensor, noise: Tensor, guidance_scale: float
) -> Tensor:
    """The model's velocity at noise levels (b,), by the calls that generation makes."""
    share = levels[:, None, None, None, None]
    noisy = (1 - share) * batch.target + share * noise
    height, width = batch.target.shape[-2:]
    prepared = model.prepare(
        batch.levels, batch.positions, (height, width), batch.condition, guidance_scale
    )
    return model.predict(noisy, levels * 1000, prepared)


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
