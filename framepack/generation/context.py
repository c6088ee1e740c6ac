"""What a section sees of the history, as tensors: levels, tails, and what is done to them.

In this order: the frames of each level are fetched, replaced by codebook entries (``+D``), tails
are pooled, noise is mixed in. Replacing before pooling keeps every entry a latent pixel, which is
what the codebook was fitted to; noise after it keeps the strength that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from framepack.drift.codebook import Codebook, discretise
from framepack.drift.noise import HistoryNoise, NoiseMode, noise_level
from framepack.generation.history import History
from framepack.generation.orders import ContextLevel, Section
from framepack.models.base import LevelLatents
from framepack.packing.accounting import TAIL_POOL
from framepack.packing.schedule import Kernel
from framepack.packing.tails import append_tail, compress_tail, middle_position


def context_levels(
    section: Section, history: History, codebook: Codebook | None = None
) -> list[LevelLatents]:
    """What a section sees, as a model gets it; training builds its examples with it too.

    Args:
        section: Its context as it is to be seen.
        history: Holds the frames, or not.
        codebook: Replaces every latent pixel by its nearest entry; None leaves them.
    """
    return [_level(level, history, codebook) for level in section.context]


def _level(level: ContextLevel, history: History, codebook: Codebook | None) -> LevelLatents:
    latents, positions = history.frames(level.frames), level.positions
    if codebook is not None:
        latents = discretise(latents, codebook)
    pooled = None
    if level.role == "append":
        latents, pooled = append_tail(latents), TAIL_POOL
    elif level.role == "compress":
        pooled = Kernel(1, *latents.shape[3:])
        latents, positions = compress_tail(latents), (middle_position(positions),)
    return LevelLatents(level.kernel, latents, torch.tensor([positions]), pooled)


@dataclass(frozen=True)
class CleanContext:
    """Levels that no noise level of the target changes."""

    levels: Sequence[LevelLatents]
    steady = True

    def at(self, target_level: float) -> Sequence[LevelLatents]:
        """The levels."""
        return self.levels


class NoisyContext:
    """Levels with noise mixed in (diffusion forcing)."""

    def __init__(
        self,
        levels: Sequence[LevelLatents],
        mode: NoiseMode,
        sigma: float,
        generator: torch.Generator,
    ) -> None:
        """Draw the noise of all levels.

        Args:
            levels: Clean.
            mode: See `framepack.drift.noise`.
            sigma: Strength, 0 to 1.
            generator: On the CPU.
        """
        self._mode, self._sigma = mode, sigma
        self._levels = [(level, HistoryNoise(level.latents, generator)) for level in levels]

    @property
    def steady(self) -> bool:
        """Whether the levels are the same at every noise level of the target."""
        return self._mode == "constant"

    def at(self, target_level: float) -> list[LevelLatents]:
        """The levels when the target has a noise level."""
        share = noise_level(self._mode, self._sigma, target_level)
        return [replace(level, latents=noise.at(share)[0]) for level, noise in self._levels]

    def drowned(self) -> CleanContext:
        """Nothing but the noise: what is left of history at level 1."""
        return CleanContext(
            [replace(level, latents=noise.at(1.0)[0]) for level, noise in self._levels]
        )


Context = CleanContext | NoisyContext
