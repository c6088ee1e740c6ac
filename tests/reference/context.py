"""What a section sees, frame by frame and pixel by pixel: tails, codebook, ranking, guidance."""

from __future__ import annotations

import cmath
from math import ceil

import torch
from torch import Tensor

from tests.reference.ranking import literal_cosine_sum, literal_proximity


def literal_tail(beyond: list[Tensor], kind: str) -> Tensor:
    """(c, n, h, w) of the frames (c, H, W) beyond a pack, by blocks of 32 or all in one."""
    if kind == "tc":
        total = sum(float(1) * frame.double().sum((1, 2)) for frame in beyond)
        pixels = sum(frame.shape[1] * frame.shape[2] for frame in beyond)
        return (total / pixels).float()[:, None, None, None]  # type: ignore[union-attr]
    pooled = []
    for frame in beyond:
        channels, height, width = frame.shape
        small = torch.zeros(channels, ceil(height / 32), ceil(width / 32))
        for y in range(small.shape[1]):
            for x in range(small.shape[2]):
                block = [
                    frame[:, min(32 * y + i, height - 1), min(32 * x + j, width - 1)]
                    for i in range(32)
                    for j in range(32)
                ]
                small[:, y, x] = torch.stack(block).mean(0)
        pooled.append(small)
    return torch.stack(pooled, dim=1)


def literal_tail_phase(times: list[int], rows: int, columns: int, frequency: float) -> complex:
    """Mean over a tail token's frames and the whole grid, of one pair that rotates with all three.

    The phase of a base token at (t, y, x) is taken as ``exp(i frequency (t + y + x))``.
    """
    values = [
        cmath.exp(1j * frequency * (t + y + x))
        for t in times
        for y in range(rows)
        for x in range(columns)
    ]
    return sum(values) / len(values)


def literal_ranking(
    frames: dict[int, Tensor], estimate: Tensor, target: int, seconds: float, weight: float | None
) -> list[int]:
    """Frame numbers by importance.

    Args:
        frames: (c, h, w) by number.
        estimate: (c, s, h, w).
        target: Number of the first generated frame.
        seconds: Of a latent frame.
        weight: Of nearness in time; None ranks by similarity alone.
    """
    scores = {}
    for number, frame in frames.items():
        pixels = frame.shape[1] * frame.shape[2]
        cosines = [literal_cosine_sum(frame, estimate[:, s]) for s in range(estimate.shape[1])]
        scores[number] = sum(cosines) / len(cosines) / pixels
        if weight is not None:
            scores[number] += weight * literal_proximity(number * seconds, target * seconds)
    return sorted(scores, key=lambda number: (-scores[number], -number))


def literal_guidance(told: Tensor, forgetful: Tensor, weight: float) -> Tensor:
    """DFoT's history guidance of velocities."""
    return forgetful + weight * (told - forgetful)
