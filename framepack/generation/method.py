"""How history is chosen and changed before a model sees it (torch-free).

What the paper compares (section 4.3 and Table 2), as switches of the one section loop. A trained
model bears what it was trained with; the defaults are the released models'.

Whatever needs a random number draws it from the job's one noise generator right after the section's
own noise, so a resumed section draws the same, and a request that asks for none of this draws what
it always drew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from framepack.errors import InvalidRequest

Ranking = Literal["time", "similarity", "hybrid"]
NoiseMode = Literal["scaled", "constant"]
AttentionPattern = Literal["full", "causal"]

RANKINGS: tuple[str, ...] = get_args(Ranking)
NOISE_MODES: tuple[str, ...] = get_args(NoiseMode)
ATTENTION_PATTERNS: tuple[str, ...] = get_args(AttentionPattern)

MAX_HISTORY_GUIDANCE = 10.0


@dataclass(frozen=True)
class HistoryMethod:
    """How a plan's sections see history.

    Attributes:
        ranking: Which frames are important: the nearest in time, those most like the section to
            come, or both (equations 3 to 5). See `framepack.generation.ranked`.
        time_weight: Of nearness in time in the hybrid ranking. The paper gives none; with a half,
            a scene that is recalled wins over the frames at hand, and among frames of one scene
            the near ones win.
        seconds_per_frame: Of latent frames, for the ranking by time.
        noise: Strength of history noise (diffusion forcing), 0 to 1.
        noise_mode: See `framepack.drift.noise`.
        guidance: Of history; 1 is none, more keeps closer to it. Doubles the work.
        attention: ``causal`` lets a block of `CAUSAL_BLOCK` latent frames see itself, all history
            and the blocks before it, as a model distilled for streaming does.
        discretised: Whether history is replaced by codebook entries (``+D``).
    """

    ranking: Ranking = "time"
    time_weight: float = 0.5
    seconds_per_frame: float = 4 / 30
    noise: float = 0.0
    noise_mode: NoiseMode = "scaled"
    guidance: float = 1.0
    attention: AttentionPattern = "full"
    discretised: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidRequest, naming the request's field."""
        _check_name("ranking", self.ranking, RANKINGS)
        _check_name("history_noise_mode", self.noise_mode, NOISE_MODES)
        _check_name("attention", self.attention, ATTENTION_PATTERNS)
        _check_range("history_noise", self.noise, 0.0, 1.0)
        _check_range("history_guidance", self.guidance, 1.0, MAX_HISTORY_GUIDANCE)


CAUSAL_BLOCK = 3
"""Latent frames of a block under causal attention, as in CausVid and Self-Forcing."""


def _check_name(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        # The name is left out: the service answers with this sentence and never echoes input.
        raise InvalidRequest(field, f"there is no such choice; take one of: {', '.join(known)}")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidRequest(field, f"must be between {low:g} and {high:g}, not {value:g}")


CLEAN_HISTORY = HistoryMethod()
"""The released models'."""
