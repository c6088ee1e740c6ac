"""Guidance distillation: one evaluation of a model learns what two of its teacher give.

Under classifier-free guidance a model is evaluated with the caption and without it, and the
difference is exaggerated. A teacher that never changes, the weights a training starts from, does so
for every training example, and its guided velocity is the target instead of the truth's (Meng et
al., 2023, "On Distillation of Guided Diffusion Models", for one scale). It is how HunyuanVideo
came by its ``guidance_scale``: sampling then needs no second evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from framepack.errors import InvalidRequest
from framepack.training.cache import CachedPrompt
from framepack.training.examples import Batch, uncaptioned_batch


@dataclass(frozen=True)
class DistillationSettings:
    """What is learnt from the weights that a training starts from.

    Attributes:
        cfg_scale: Of the teacher's classifier-free guidance.
    """

    cfg_scale: float

    def __post_init__(self) -> None:
        if not 1.0 < self.cfg_scale < math.inf:
            raise InvalidRequest(
                "distillation", f"cfg_scale is {self.cfg_scale}; above 1 there is guidance to learn"
            )


class Teacher:
    """Frozen weights under classifier-free guidance."""

    def __init__(
        self, denoiser: nn.Module, settings: DistillationSettings, uncaptioned: CachedPrompt
    ) -> None:
        self._denoiser = denoiser.eval().requires_grad_(False)
        self._scale, self._uncaptioned = settings.cfg_scale, uncaptioned

    @torch.no_grad()
    def velocity(self, batch: Batch, levels: Tensor, noise: Tensor) -> Tensor:
        """The guided velocity (b, c, window, h, w), fp32.

        Picture and history are the same with and without the caption, as in generation.
        """
        towards = self._denoiser(batch, levels, noise).float()
        apart = self._denoiser(uncaptioned_batch(batch, self._uncaptioned), levels, noise).float()
        guided: Tensor = apart + self._scale * (towards - apart)
        return guided
