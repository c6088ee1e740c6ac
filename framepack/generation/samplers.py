"""Samplers integrate the flow: from noise and a denoiser to data.

All have one signature: ``sample(denoise, noise, sigmas)`` yields a `SamplerStep` after each
evaluation of the denoiser, of which there are ``len(sigmas) - 1``. The caller stops by closing the
generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.types import Latents

Denoise = Callable[[Latents, Float[Tensor, ""]], Latents]
"""(noisy latents, noise level) to an estimate of the data, both fp32."""

Sampler = Callable[[Denoise, Latents, Float[Tensor, " n"]], Iterator["SamplerStep"]]
Variant = Literal["bh1", "bh2"]
Signal = Callable[[float], float]
"""Noise level to the coefficient alpha of the data, in lambda = ln(alpha / sigma)."""


@dataclass(frozen=True)
class SamplerStep:
    """State after one evaluation.

    Attributes:
        index: From 0.
        latents: The latents at this noise level, corrected by the evaluation.
        estimate: The denoiser's estimate of the data; the last one is the result.
    """

    index: int
    latents: Latents
    estimate: Latents


def sample_unipc(
    denoise: Denoise,
    noise: Latents,
    sigmas: Float[Tensor, " n"],
    *,
    variant: Variant = "bh1",
    max_order: int = 3,
    signal: Signal = lambda sigma: 1.0,
) -> Iterator[SamplerStep]:
    """UniPC for flow matching, predicting data (Zhao et al. 2023, "UniPC", algorithms 1 and 2).

    The released FramePack models take a signal coefficient of 1, so lambda = -ln sigma; the flow's
    own is 1 - sigma. Each node is evaluated once, at the predictor's point, and the corrector
    reuses that evaluation. The last noise level, 0, is never used: the result is the last estimate,
    at ``sigmas[-2]``, as in the official code.
    """
    steps = len(sigmas) - 1
    order = min(max_order, steps - 1)
    nodes: list[tuple[float, Tensor]] = []
    x = noise
    for index in range(steps):
        sigma = sigmas[index]
        if index == 0:
            estimate = denoise(x, sigma)
        else:
            update = _Update(nodes[-min(index, order) :], x, float(sigma), variant, signal)
            estimate = denoise(update.predict(), sigma)
            x = update.correct(estimate)
        nodes = [*nodes, (float(sigma), estimate)][-max(order, 1) :]
        yield SamplerStep(index, x, estimate)


class _Update:
    """One step from the latest node s to the next noise level; letters as in the paper.

    Args:
        nodes: (sigma, estimate m) of the last p evaluations, oldest first.
        x: Corrected latents at the latest node.
        sigma: The noise level to reach.
        variant: bh1 takes B(h) = h, bh2 takes B(h) = exp(h) - 1.
        signal: alpha of a noise level.
    """

    def __init__(
        self,
        nodes: list[tuple[float, Tensor]],
        x: Latents,
        sigma: float,
        variant: Variant,
        signal: Signal,
    ) -> None:
        *earlier, (sigma_s, self.m_s) = nodes
        alpha, alpha_s = signal(sigma), signal(sigma_s)

        def since_s(other: float) -> float:
            """Lambda of a noise level minus that of s."""
            return math.log(signal(other) * sigma_s / (alpha_s * other))

        h = since_s(sigma)
        self.p = len(nodes)
        e = (alpha_s * sigma) / (alpha * sigma_s) - 1
        big_b = -h if variant == "bh1" else math.expm1(-h)
        self.scaled_b = alpha * big_b
        self.r = [since_s(other) / h for other, _ in reversed(earlier)] + [1.0]
        self.b = _phi(self.p, -h, e, big_b)
        self.d = [(m - self.m_s) / r for (_, m), r in zip(reversed(earlier), self.r, strict=False)]
        self.base = sigma / sigma_s * x - alpha * e * self.m_s

    def predict(self) -> Latents:
        """UniP: extrapolate from the known nodes."""
        if self.p == 1:
            return self.base
        rho = [0.5] if self.p == 2 else self._solve(self.p - 1)
        return self.base - self.scaled_b * _weighted(rho, self.d)

    def correct(self, m_t: Latents) -> Latents:
        """UniC: include the evaluation at the predicted point."""
        rho = [0.5] if self.p == 1 else self._solve(self.p)
        return self.base - self.scaled_b * _weighted(rho, [*self.d, m_t - self.m_s])

    def _solve(self, size: int) -> list[float]:
        rows = [[r**power for r in self.r[:size]] for power in range(size)]
        solution = torch.linalg.solve(
            torch.tensor(rows, dtype=torch.float64),
            torch.tensor(self.b[:size], dtype=torch.float64),
        )
        values: list[float] = solution.tolist()
        return values


def _phi(count: int, g: float, e: float, big_b: float) -> list[float]:
    """b_i = i! phi_i / B with phi_1 = E/g - 1 and phi_{i+1} = phi_i/g - 1/(i+1)!."""
    values, phi = [], e / g - 1
    for i in range(1, count + 1):
        values.append(math.factorial(i) * phi / big_b)
        phi = phi / g - 1 / math.factorial(i + 1)
    return values


def _weighted(weights: list[float], terms: list[Latents]) -> Latents:
    total = torch.zeros_like(terms[0])
    for weight, term in zip(weights, terms, strict=True):
        total = total + weight * term
    return total


SAMPLERS: dict[str, Sampler] = {
    "unipc_bh1": sample_unipc,
    "unipc_bh2": partial(sample_unipc, variant="bh2"),
    "unipc_flow": partial(sample_unipc, variant="bh2", max_order=2, signal=lambda s: 1 - s),
}
"""By name. The released models are sampled with ``unipc_bh1``, Helios with ``unipc_flow``."""
