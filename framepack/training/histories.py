"""What training does to the history of an example, so that the model bears its own mistakes later.

The changes are those that generation can make too (`framepack.drift`): every latent pixel replaced
by its nearest codebook entry, or noise mixed in. All of the context is changed alike, the start
picture included, as in generation. Frames that are absent stay absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from framepack.drift.codebook import Codebook, discretise
from framepack.drift.noise import HistoryNoise, NoiseMode, noise_level
from framepack.errors import InvalidRequest
from framepack.models.base import LevelLatents


@dataclass(frozen=True)
class HistorySettings:
    """What happens to the history of an arm's examples.

    Attributes:
        change: ``clean`` leaves it, ``codebook`` and ``noise`` are the module's two.
        entries: Of the codebook (the paper's K), fitted to the clips being trained on.
        mode: Of noise, see `framepack.drift.noise`.
        sigma: Strength of noise, 0 to 1; None draws one for each example.
        absent: Share of examples that see nothing but the start picture, whatever has been made.
    """

    change: Literal["clean", "codebook", "noise"] = "clean"
    entries: int = 128
    mode: NoiseMode = "scaled"
    sigma: float | None = None
    absent: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("sigma", self.sigma or 0.0), ("absent", self.absent)):
            if not 0.0 <= share <= 1.0:
                raise InvalidRequest(f"history.{name}", f"must be between 0 and 1, not {share}")
        if self.entries < 1:
            raise InvalidRequest("history.entries", f"must be at least 1, not {self.entries}")


@dataclass(frozen=True)
class HistoryDraw:
    """What was drawn for one example.

    Attributes:
        absent: Whether its history is.
        sigma: Strength of noise.
        seed: Of the noise.
    """

    absent: bool = False
    sigma: float = 0.0
    seed: int = 0


def changed(
    levels: list[LevelLatents],
    settings: HistorySettings,
    drawn: HistoryDraw,
    target_level: float,
    codebook: Codebook | None,
) -> list[LevelLatents]:
    """A context after the change.

    Args:
        levels: Batch size 1.
        settings: Of the arm.
        drawn: For this example.
        target_level: Noise level of the frames to be generated.
        codebook: Of ``settings.entries``, if there is to be one.
    """
    if settings.change == "codebook":
        if codebook is None:
            raise ValueError("discretising needs a codebook")
        return [replace(each, latents=discretise(each.latents, codebook)) for each in levels]
    if settings.change == "noise":
        generator = torch.Generator().manual_seed(drawn.seed)
        level = noise_level(settings.mode, drawn.sigma, target_level)
        return [
            replace(each, latents=HistoryNoise(each.latents, generator).at(level)[0])
            for each in levels
        ]
    return levels
