"""Which history frames matter most for the next section (section 3.2, equations 3 to 5).

By time the newest frame comes first; by similarity the one that looks most like an estimate of the
next section; hybrid adds both. The most important frames get the finest level.

Decisions where the paper is silent:

- The paper *sums* the cosine over all pixel positions, thousands of them, so its weight for time
  would have to change with the video's size. Here it is the *mean*, in -1 .. 1 like the time term's
  0 .. 1, and one weight fits all sizes. ``reduction="sum"`` gives the paper's equation.
- The estimate is a section, a history frame is one frame: the cosine is averaged over the section's
  frames as well.
- Where an estimate comes from is the caller's: the last frames made, or the data estimate after
  the first denoising steps, which costs nothing because the sampler yields it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from framepack.packing.schedule import Kernel, Pack

Reduction = Literal["mean", "sum"]
Scores = Float[Tensor, " n"]


@dataclass(frozen=True)
class RankedLevel:
    """History frames that share a kernel, ascending but not always consecutive."""

    kernel: Kernel
    frames: tuple[int, ...]


def cosine_similarity(
    frames: Float[Tensor, "1 c n h w"],
    estimate: Float[Tensor, "1 c s h w"],
    reduction: Reduction = "mean",
) -> Scores:
    """How much each history frame looks like the next section (equation 3).

    Args:
        frames: (1, c, n, h, w) history latents.
        estimate: (1, c, s, h, w) an estimate of the next section.
        reduction: Over pixel positions.

    Returns:
        (n,); 0 for a frame of zeros.
    """
    # The mean over s of <f, x_s> is <f, mean of x_s>: one direction for each pixel will do.
    direction = F.normalize(estimate.float(), dim=1).mean(dim=2, keepdim=True)
    cosine = (F.normalize(frames.float(), dim=1) * direction).sum(dim=1)[0]
    return cosine.sum((1, 2)) if reduction == "sum" else cosine.mean((1, 2))


def time_proximity(seconds: Sequence[float], next_seconds: float) -> Scores:
    """exp(-(t - t')^2) of start times in seconds (equation 4)."""
    return torch.exp(-((torch.tensor(seconds, dtype=torch.float32) - next_seconds) ** 2))


def hybrid(similarity: Scores, proximity: Scores, time_weight: float = 1.0) -> Scores:
    """Similarity and proximity in time together (equation 5)."""
    return similarity + time_weight * proximity.to(similarity)


def ranked(numbers: Sequence[int], scores: Scores) -> tuple[int, ...]:
    """Frame numbers, most important first; among equals the newer one."""
    values = scores.tolist()
    order = sorted(range(len(numbers)), key=lambda i: (-values[i], -numbers[i]))
    return tuple(numbers[i] for i in order)


def assign_levels(most_important_first: Sequence[int], pack: Pack) -> tuple[RankedLevel, ...]:
    """Give the levels of a pack their frames, finest kernel first.

    Frames in excess belong to the tail. Places in excess get numbers before the video, which stand
    for zeros, so that a level never has fewer tokens.

    Args:
        most_important_first: History frame numbers, none negative.
        pack: Its levels, in any order.

    Returns:
        One for each level of the pack, finest first, frames in time order within each.
    """
    waiting = list(most_important_first)
    missing = pack.frames - len(waiting)
    waiting += range(-1, -1 - missing, -1)
    levels = []
    for level in sorted(pack.levels, key=lambda level: level.kernel.volume):
        frames, waiting = waiting[: level.frames], waiting[level.frames :]
        levels.append(RankedLevel(level.kernel, tuple(sorted(frames))))
    return tuple(levels)


def truthful_positions(frames: Sequence[int], target: int, position: int) -> tuple[int, ...]:
    """RoPE positions at the frames' true distances from the generated ones.

    Args:
        frames: Frame numbers in the video.
        target: Frame number of the first generated frame.
        position: Its RoPE position.
    """
    return tuple(position + frame - target for frame in frames)
