"""Noise levels of the denoising steps (facts of the official sampler, section 4.2).

A straight line from 1 to 0, shifted towards 1 the more target tokens there are.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

MAX_SHIFT = 7.0


def shift_exponent(target_tokens: int) -> float:
    """The logarithm of the shift: linear in the tokens, 0.5 at 256 and 1.15 at 4096, capped."""
    slope = (1.15 - 0.5) / (4096 - 256)
    return min(slope * (target_tokens - 256) + 0.5, math.log(MAX_SHIFT))


def shifted_sigmas(steps: int, exponent: float, first: float = 1.0) -> Float[Tensor, " n"]:
    """``steps + 1`` noise levels from 1 to 0, fp32 on the CPU.

    Args:
        steps: Number of denoising steps.
        exponent: Logarithm of the shift.
        first: Where the line begins before the shift.
    """
    t = torch.linspace(first, 0, steps + 1)
    shift = math.exp(exponent)
    return shift / (shift + (1 / t - 1))
