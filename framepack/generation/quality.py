"""How much of the denoising work a request lets be left out (torch-free).

``exact`` computes every step. ``standard`` and ``draft`` skip the blocks in steps where they would
change little: by magnitudes calibrated for the weights (MagCache) where such are beside them, else
by how much the input changes (TeaCache, whose polynomial was fitted to the released models). What
that costs on trained `tiny` is measured by `python -m bench quality`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

QualityName = Literal["exact", "standard", "draft"]
QUALITY_NAMES: tuple[str, ...] = get_args(QualityName)


@dataclass(frozen=True)
class Skipping:
    """When steps are skipped.

    Attributes:
        magnitude_error: Accumulated error at which MagCache runs the blocks again.
        most: Steps in a row that MagCache skips at most.
        tea_threshold: Of TeaCache, where nothing is calibrated.
    """

    magnitude_error: float
    most: int
    tea_threshold: float


QUALITIES: Mapping[str, Skipping | None] = {
    "exact": None,
    "standard": Skipping(magnitude_error=0.06, most=1, tea_threshold=0.10),
    "draft": Skipping(magnitude_error=0.24, most=3, tea_threshold=0.15),
}
"""By the name a request uses."""
