"""Where randomness comes from: one seed, two generators, both on the CPU.

The noise of all sections is drawn from one generator seeded with the job's seed, in the order of
sampling, as in the official code. The start picture's latent is a sample too; the official code
draws it from the device's global generator, so its runs cannot be repeated. Here it has a generator
of its own, so that it does not shift the noise, and its seed is
the first 63 bits of SHA-256 over ``framepack start latent <seed>``.
"""

from __future__ import annotations

import hashlib

import torch


def noise_generator(seed: int) -> torch.Generator:
    """The generator of a job's noise, before the first section."""
    return torch.Generator("cpu").manual_seed(seed)


def start_generator(seed: int) -> torch.Generator:
    """The generator of the start picture's latent."""
    digest = hashlib.sha256(f"framepack start latent {seed}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8]) >> 1)
