import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo

from framepack.models.tiny import SIZES
from framepack.models.vae import use_onednn_convolutions
from framepack.training.codec import decode, encode, peak_signal_to_noise, world_pixels
from framepack.training.codec_start import start_from_components
from framepack.world.scene import FIRST_HELD_OUT_SEED


def autoencoder(size: str) -> AutoencoderKLHunyuanVideo:
    chosen = SIZES[size]
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo(
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        block_out_channels=chosen.vae_channels,
        layers_per_block=1,
        norm_num_groups=chosen.vae_groups,
        mid_block_add_attention=False,
    )


def test_the_start_alone_shows_unseen_scenes() -> None:
    """Statistics of eight clips carry over to clips it has not seen, before any training."""
    vae = autoencoder("tiny")
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


def test_a_codec_too_narrow_for_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="too narrow"):
        start_from_components(autoencoder("nano"), world_pixels(range(2), 5))
