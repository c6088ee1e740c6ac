from collections.abc import Callable
from typing import Any

import pytest
import torch

from framepack.models.vae import use_onednn_convolutions
from framepack.presets import Models
from framepack.training.codec import decode, encode, peak_signal_to_noise, world_pixels
from framepack.training.codec_start import start_from_components
from framepack.world.scene import FIRST_HELD_OUT_SEED


def test_the_start_alone_shows_unseen_scenes(tiny_autoencoder: Callable[[], Any]) -> None:
    """Statistics of eight clips carry over to clips it has not seen, before any training."""
    vae = tiny_autoencoder()
    pixels = world_pixels(range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 4), 9)
    with torch.inference_mode():
        random = peak_signal_to_noise(decode(vae, encode(vae, pixels)), pixels)
    start_from_components(vae, world_pixels(range(8), 9))
    use_onednn_convolutions(vae)
    with torch.inference_mode():
        latents = encode(vae, pixels)
        started = peak_signal_to_noise(decode(vae, latents), pixels)
    assert random < 15
    assert started > 22.5
    deviations = latents.std((0, 2, 3, 4))
    assert 0.5 < latents.std() < 2
    assert deviations[0] > deviations[-1]  # components come in the order of what they explain


def test_a_codec_too_narrow_for_pairs_is_refused(nano_models: Models) -> None:
    with pytest.raises(ValueError, match="too narrow"):
        start_from_components(nano_models.codec.vae, world_pixels(range(2), 5))
