"""What a base model offers to the section loop. A second base model is a second module.

The loop prepares once per section and calls once per denoising step; everything that does not
change with the step belongs into `prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.packing.schedule import Kernel
from framepack.types import Latents, Positions, TextMask, Tokens

P = TypeVar("P")


@dataclass(frozen=True)
class LevelLatents:
    """One level of context as a model gets it.

    Attributes:
        kernel: Its patchify kernel.
        latents: (b, c, t, h, w), fp32; zeros where a frame is absent.
        positions: (b, t) RoPE positions.
        pooled: How many latent pixels each of ``latents`` is the mean of, for a tail; None for one.
    """

    kernel: Kernel
    latents: Latents
    positions: Positions
    pooled: Kernel | None = None


@dataclass(frozen=True)
class TextCondition:
    """One guidance branch's conditioning.

    Attributes:
        text: (b, l, text width) states of the text encoder; only valid ones unless masked.
        pooled: (b, pooled width) pooled text.
        image: (b, n, image width) states of the image encoder.
        mask: (b, l), True for valid text; None when all are.
    """

    text: Float[Tensor, "b l i"]
    pooled: Float[Tensor, "b j"]
    image: Float[Tensor, "b n k"]
    mask: TextMask | None = None


Blocks = Callable[[], Tokens]


@runtime_checkable
class StepCache(Protocol):
    """Decides whether the blocks run in this step. Holds the state of one section and branch.

    ``skipped`` counts the steps in which they did not.
    """

    skipped: int

    def __call__(self, target: Tokens, signal: Float[Tensor, "b s d"], blocks: Blocks) -> Tokens:
        """The target's tokens after the blocks, computed or estimated.

        Args:
            target: The same tokens before the blocks.
            signal: What the first block would see, context included, to judge the change.
            blocks: Computes the result.
        """


@runtime_checkable
class Anticipating(Protocol):
    """A model that can compute at once what its steps will need of their timesteps alone.

    So weights that serve nothing else come to the device once a job instead of once a step.
    """

    def anticipate(self, timesteps: Float[Tensor, " n"], prepared: Any) -> None:
        """Prepare for steps to come.

        Args:
            timesteps: Noise levels times 1000, on the CPU.
            prepared: What `PackedModel.prepare` returned.
        """


@runtime_checkable
class PackedModel(Protocol, Generic[P]):
    """A transformer over packed context. ``P`` is whatever it prepares once per section."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its weights and activations."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def prepare(
        self,
        levels: Sequence[LevelLatents],
        positions: Positions,
        size: tuple[int, int],
        condition: TextCondition,
        guidance_scale: float,
        causal_block: int | None = None,
    ) -> P:
        """Everything of a section that does not change with the step.

        Args:
            levels: Context, in token order.
            positions: (b, t) RoPE positions of the target frames.
            size: (height, width) of the latent grid.
            condition: Text and image conditioning of one guidance branch.
            guidance_scale: Distilled guidance.
            causal_block: Latent frames of the target that see themselves, history, text and the
                blocks before; None lets all see all.

        Raises:
            InvalidRequest: The model cannot do that.
        """

    def predict(
        self, latents: Latents, timestep: Tensor, prepared: P, cache: StepCache | None
    ) -> Latents:
        """The velocity (noise minus data) of the target, fp32.

        Args:
            latents: (b, c, t, h, w) noisy target in the model's dtype.
            timestep: (b,) noise level times 1000, fp32, on any device; a model rounds it as it was
                trained.
            prepared: What `prepare` returned.
            cache: May skip the blocks.
        """
