"""What a job is conditioned on, and which seed decides what."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framepack.generation.encode import Encoders, encode
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.generation.seeds import noise_generator, start_generator
from framepack.media.images import fit_image
from framepack.presets import load_preset


@pytest.fixture(scope="module")
def encoders(nano_folder: Path) -> Encoders:
    return load_preset("tiny", nano_folder, "cpu").encoders


@pytest.fixture(scope="module")
def image() -> Any:
    return np.random.default_rng(3).integers(0, 256, (90, 100, 3), dtype=np.uint8)


def test_every_encoder_sees_its_part(encoders: Encoders, image: Any) -> None:
    request = GenerationRequest("a red ball", negative_prompt="a ring", cfg_scale=2.0, seed=7)
    conditioning = encode(encoders, plan_generation(request, (90, 100)), image)
    cropped = fit_image(image, (64, 64))
    (prompt,) = conditioning.prompts
    assert torch.equal(prompt.text, encoders.prompt.encode("a red ball"))
    assert torch.equal(prompt.pooled, encoders.pooled.encode("a red ball"))
    assert conditioning.negative is not None
    assert torch.equal(conditioning.negative.text, encoders.prompt.encode("a ring"))
    assert torch.equal(conditioning.image, encoders.image.encode(cropped))
    start = encoders.codec.encode_image(cropped, start_generator(7))
    assert torch.equal(conditioning.start, start)
    assert conditioning.start.dtype is torch.float32


def test_a_negative_prompt_without_effect_is_not_encoded(encoders: Encoders, image: Any) -> None:
    request = GenerationRequest("a red ball", negative_prompt="a ring")
    assert encode(encoders, plan_generation(request, (90, 100)), image).negative is None


def test_the_seed_decides_the_start_latent(encoders: Encoders, image: Any) -> None:
    """And nothing else: the global generator moves on meanwhile."""
    request = GenerationRequest("a red ball")
    plans = [plan_generation(replace(request, seed=seed), (90, 100)) for seed in (1, 1, 2)]
    starts = []
    for plan in plans:
        starts.append(encode(encoders, plan, image).start)
        torch.rand(1)
    first, again, other = starts
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    deviation = (first - other).std().item()
    assert 0 < deviation < 1.5, "a sample around the same mean"


def test_generators_are_pinned() -> None:
    """The noise is the official code's; the start latent's generator is ours and must not move."""
    noise = torch.randn((1, 16, 3, 8, 8), generator=noise_generator(31337)).flatten()[:4]
    golden = [1.183281660079956, -0.06305880844593048, 0.9908509254455566, -0.5060694217681885]
    assert noise.tolist() == golden
    assert start_generator(31337).initial_seed() == 7497923902248682708
    assert start_generator(0).initial_seed() != start_generator(1).initial_seed()
