"""History noise: diffusion forcing as an alternative to discretisation (section 4.3, Table 2).

History is mixed with noise as training latents are, ``(1 - s) z + s e``. Two ways to choose s:

scaled
    ``sigma`` times the target's noise level, so history becomes clean as the target does. What the
    paper compares with.
constant
    ``sigma`` throughout, what released long-video models of this kind do with a small value.

The noise of a section is drawn once and kept while s changes from step to step: fresh noise at
every step would average out over the steps and hide less than s says. A frame of zeros stands for
"absent" and stays so, at level 0; its noise is drawn all the same, so that the draws do not depend
on how much history there is.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.drift.codebook import present_frames
from framepack.types import Latents

NoiseMode = Literal["scaled", "constant"]


def noise_level(mode: NoiseMode, sigma: float, target_level: float) -> float:
    """Noise level of history, 0 to 1.

    Args:
        mode: See the module.
        sigma: Strength, 0 (clean) to 1.
        target_level: Noise level of the frames being generated, 0 to 1.

    Raises:
        ValueError: ``sigma`` is not in 0 .. 1.
    """
    if not 0.0 <= sigma <= 1.0:
        raise ValueError(f"history noise must be between 0 and 1, not {sigma}")
    return sigma * target_level if mode == "scaled" else sigma


class HistoryNoise:
    """The noise of one section's history at one level of packing."""

    def __init__(self, history: Latents, generator: torch.Generator) -> None:
        """Draw the noise.

        Args:
            history: (b, c, t, h, w).
            generator: On the CPU, so that every device gets the same noise.
        """
        self._history = history
        self._present = present_frames(history)
        noise = torch.randn(history.shape, generator=generator, dtype=torch.float32)
        self._noise = noise.to(history)

    def at(self, level: float) -> tuple[Latents, Float[Tensor, "b t"]]:
        """History at a noise level, and the level of each frame for the model's timestep."""
        levels = self._present.to(self._history.dtype) * level
        share = levels[:, None, :, None, None]
        return (1 - share) * self._history + share * self._noise, levels
