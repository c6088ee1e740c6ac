"""Equations 3 to 5 of the paper, one pixel at a time."""

from math import exp, sqrt

from torch import Tensor


def literal_cosine_sum(frame: Tensor, estimate: Tensor) -> float:
    """Sum over pixels of the cosine between (c, h, w) and (c, h, w)."""
    channels, height, width = frame.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            a = [float(frame[c, y, x]) for c in range(channels)]
            b = [float(estimate[c, y, x]) for c in range(channels)]
            dot = sum(p * q for p, q in zip(a, b, strict=True))
            total += dot / (sqrt(sum(p * p for p in a)) * sqrt(sum(q * q for q in b)))
    return total


def literal_proximity(seconds: float, next_seconds: float) -> float:
    return exp(-((seconds - next_seconds) ** 2))
