"""The linear decoder against what it should resemble, through the codec that `tiny` ships."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from framepack.generation.preview import LONGEST_SIDE, fit_linear_decoder
from framepack.generation.seeds import start_generator
from framepack.models.codec import SectionCodec
from framepack.presets import load_preset

EXAMPLES = Path(__file__).parents[3] / "service/api/page/examples"


@pytest.fixture(scope="module")
def codec() -> SectionCodec:
    return load_preset("tiny", None, torch.device("cpu")).codec


@pytest.mark.parametrize("name", ["ball", "triangle", "magenta"])
def test_a_preview_looks_like_the_picture(codec: SectionCodec, name: str) -> None:
    picture = np.asarray(Image.open(EXAMPLES / f"{name}.png").convert("RGB").resize((64, 64)))
    latents = codec.encode_image(picture, start_generator(1))
    shown = fit_linear_decoder(codec, (8, 8)).picture(latents).numpy()
    assert shown.shape == picture.shape
    error = np.mean((shown.astype(float) - picture) ** 2)
    assert 10 * np.log10(255**2 / error) > 20
    # A picture of the wrong colours would be no better than its mean.
    assert error < np.mean((picture.mean() - picture.astype(float)) ** 2)


def test_a_large_video_has_a_small_preview_of_its_middle_frame(codec: SectionCodec) -> None:
    decoder = fit_linear_decoder(codec, (68, 88))
    latents = torch.zeros(1, 16, 9, 68, 88)
    latents[:, :, 4] = torch.randn(16, 68, 88, generator=torch.Generator().manual_seed(0))
    shown = decoder.picture(latents)
    assert tuple(shown.shape) == (136, 176, 3)
    assert max(shown.shape) <= LONGEST_SIDE
    assert shown.float().std() > 1


def test_fitting_touches_nobodys_random_numbers(codec: SectionCodec) -> None:
    before = torch.get_rng_state()
    first = fit_linear_decoder(codec, (8, 8)).weights
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, fit_linear_decoder(codec, (8, 8)).weights)
