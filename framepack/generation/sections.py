"""A video's sections one after the other, for those who look at no single step.

`framepack.generation.generate` tells of every step and forgets what it no longer needs; the worker
makes one section a task. Everybody else goes through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from framepack.generation.conditioning import Conditioning
from framepack.generation.history import History
from framepack.generation.plan import Plan
from framepack.generation.restart import restarted
from framepack.generation.section import SamplingSettings, finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stitch import SectionDecoder
from framepack.models.base import PackedModel
from framepack.models.codec import SectionCodec


def sample_sections(
    model: PackedModel[Any],
    codec: SectionCodec,
    plan: Plan,
    conditioning: Conditioning,
    settings: SamplingSettings,
) -> Iterator[tuple[int, History]]:
    """Sample all sections, yielding each one's index with the history that it has just joined."""
    history, generator = History(conditioning.start), noise_generator(plan.request.seed)
    for section in plan.sections:
        seen = restarted(section, history, codec, plan.request.seed)
        steps = sample_section(model, conditioning, section, seen, settings, generator)
        history.add(section.frames, finish_section(steps))
        yield section.index, history


def make_frames(
    model: PackedModel[Any],
    codec: SectionCodec,
    plan: Plan,
    conditioning: Conditioning,
    settings: SamplingSettings,
) -> UInt8[np.ndarray, "t h w 3"]:
    """A whole video's pixels, before any video encoding."""
    decoder = SectionDecoder(codec, plan)
    made = sample_sections(model, codec, plan, conditioning, settings)
    runs = [decoder.decode(index, history.frames) for index, history in made]
    return np.concatenate([run.frames for run in sorted(runs, key=lambda run: run.first_frame)])
