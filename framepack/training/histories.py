"""What training does to the history of an example, so that the model bears its own mistakes later.

The changes are those that generation can make too, by the same functions, which lie in
`framepack.generation.context`: every latent pixel replaced by its nearest codebook entry, or noise
mixed in. All of the context is changed alike, the start picture included. Frames that are absent
stay absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from framepack.errors import InvalidRequest
from framepack.generation.method import NoiseMode


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
