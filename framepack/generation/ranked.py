"""Choose the frames of a section's packs by importance (section 3.2, equations 3 to 5).

Similarity needs an estimate of the section to come, and the paper does not say where from. Here it
is the model's own estimate of the clean section at its first noise level, from the section's own
noise and the context by time: one evaluation more, no randomness of its own, a pure function of
committed latents. It is the mean of what the model expects after prompt and recent history. The
last frames made, the cheaper choice, could never bring back what is *not* in them: a scene that the
prompt returns to would stay in the tail.

All levels of both sides are filled from one list, finest first. What is left over goes to the tail,
if there is one. Positions are truthful: a frame is as far from the target as it is in the video.
"""

from __future__ import annotations

from dataclasses import replace

from framepack.generation.history import History
from framepack.generation.method import HistoryMethod
from framepack.generation.orders import ContextLevel, Section, token_order
from framepack.packing.ranking import (
    Scores,
    assign_levels,
    cosine_similarity,
    hybrid,
    ranked,
    time_proximity,
    truthful_positions,
)
from framepack.packing.schedule import Level, Pack
from framepack.types import Latents


def ranked_section(
    section: Section, history: History, method: HistoryMethod, estimate: Latents
) -> Section:
    """The section with the frames of its packs chosen by importance.

    Args:
        section: With candidates; its context by time.
        history: Holds the candidates.
        method: How to rank.
        estimate: (1, c, s, h, w) of the section's latents.
    """
    scores = _scores(section, history, method, estimate)
    packs = [level for level in section.context if level.role == "pack"]
    pack = Pack(tuple(Level(len(level.frames), level.kernel) for level in packs))
    order = ranked(section.candidates, scores)
    chosen = [
        ContextLevel(level.kernel, level.frames, _positions(section, level.frames))
        for level in assign_levels(order, pack)
    ]
    anchors = [level for level in section.context if level.role == "anchor"]
    left = sorted(order[pack.frames :])
    tails = [level for level in section.context if level.role in ("append", "compress")][:1]
    kept = [
        replace(level, frames=tuple(left), positions=_positions(section, tuple(left)))
        for level in tails
        if left
    ]
    return replace(section, context=token_order([*anchors, *chosen, *kept]))


def _scores(section: Section, history: History, method: HistoryMethod, estimate: Latents) -> Scores:
    frames = section.candidates
    proximity = time_proximity(
        [frame * method.seconds_per_frame for frame in frames],
        section.frames[0] * method.seconds_per_frame,
    )
    similarity = cosine_similarity(history.frames(frames), estimate)
    if method.ranking == "hybrid":
        return hybrid(similarity, proximity, method.time_weight)
    return similarity if method.ranking == "similarity" else proximity


def _positions(section: Section, frames: tuple[int, ...]) -> tuple[int, ...]:
    return truthful_positions(frames, section.frames[0], section.positions[0])
