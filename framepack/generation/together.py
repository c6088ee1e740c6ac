"""One video by several processes: the first leads, the others sample with it.

All encode the same inputs and draw the same noise, then make the same calls to a transformer that
splits each section's tokens between them (`framepack.models.parallel`). The leader runs
`framepack.generation.generate` as if it were alone; the others run this, which decodes and writes
nothing.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from framepack.generation.encode import encode
from framepack.generation.generate import Engine, sampling_settings
from framepack.generation.plan import Plan
from framepack.generation.sections import sample_sections
from framepack.generation.stepcache import StepCacheFactory


def follow(
    engine: Engine,
    plan: Plan,
    image: UInt8[np.ndarray, "h w 3"] | None,
    step_cache: StepCacheFactory | None = None,
) -> None:
    """Sample all sections beside a leader that is given the same; see `generate`."""
    conditioning = encode(engine.encoders, plan, image)
    skipping = step_cache or engine.step_cache(plan.request.quality)
    settings = sampling_settings(plan, skipping, engine.codebook)
    for _ in sample_sections(engine.transformer, engine.codec, plan, conditioning, settings):
        pass
