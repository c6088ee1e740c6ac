"""The HunyuanVideo codec against literal calls of diffusers' class."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from safetensors.torch import load_file, save_file
from torch import nn

from framepack.errors import WeightsError
from framepack.models.codec import Tiling
from framepack.models.vae import HunyuanVideoCodec, OneDnnConv3d, attend_frame_by_frame, load_codec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stock(nano_folder: Path) -> Any:
    return AutoencoderKLHunyuanVideo.from_pretrained(nano_folder / "vae").eval()


@pytest.fixture(scope="module")
def picture() -> Any:
    return np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def test_windows_are_read_from_the_vae(stock: Any, nano_folder: Path) -> None:
    assert HunyuanVideoCodec(stock).tiling == Tiling(5, 3, 4, 4)
    other = AutoencoderKLHunyuanVideo.from_pretrained(nano_folder / "vae")
    other.tile_sample_min_num_frames, other.tile_sample_stride_num_frames = 32, 24
    assert HunyuanVideoCodec(other).tiling == Tiling(9, 6, 8, 4)


@torch.inference_mode()
def test_start_latent_is_the_scaled_posterior_sample(stock: Any, picture: Any) -> None:
    pixels = torch.tensor(picture).float() / 127.5 - 1
    video = pixels.permute(2, 0, 1).unsqueeze(0).unsqueeze(2)
    generator = torch.Generator().manual_seed(5)
    expected = stock.encode(video).latent_dist.sample(generator) * stock.config.scaling_factor
    got = HunyuanVideoCodec(stock).encode_image(picture, torch.Generator().manual_seed(5))
    assert got.shape == (1, 16, 1, 8, 6)
    assert torch.equal(got, expected)
    other = HunyuanVideoCodec(stock).encode_image(picture, torch.Generator().manual_seed(6))
    assert not torch.equal(got, other)


@torch.inference_mode()
def test_a_window_is_decoded_at_once(stock: Any) -> None:
    latents = torch.randn(1, 16, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    got = HunyuanVideoCodec(stock).decode_window(latents)
    assert got.shape == (1, 3, 13, 64, 48)
    assert torch.equal(got, stock.decode(latents / stock.config.scaling_factor).sample)


@torch.inference_mode()
def test_onednn_convolutions_change_only_rounding(stock: Any, nano_folder: Path) -> None:
    codec = load_codec(nano_folder / "vae", CPU, torch.float32)
    kinds = {type(m) for m in codec.vae.modules() if isinstance(m, nn.Conv3d)}
    assert kinds == {OneDnnConv3d}
    latents = torch.randn(1, 16, 5, 8, 6, generator=torch.Generator().manual_seed(0))
    expected = HunyuanVideoCodec(stock).decode_window(latents)
    got = codec.decode_window(latents)
    assert expected.std() > 0.01
    assert torch.allclose(got, expected, atol=1e-5)
    pair = codec.decode_window(latents.expand(2, -1, -1, -1, -1))
    assert torch.equal(pair[:1], got), "a batch does not change a sample"


def test_other_precisions_keep_torchs_convolutions(nano_folder: Path) -> None:
    codec = load_codec(nano_folder / "vae", CPU, torch.bfloat16)
    assert {p.dtype for p in codec.vae.parameters()} == {torch.bfloat16}
    assert not any(isinstance(m, OneDnnConv3d) for m in codec.vae.modules())


def test_a_checkpoint_must_fit(nano_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    shutil.copytree(nano_folder / "vae", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["decoder.conv_out.conv.bias"]
    save_file(tensors, weights)
    with pytest.raises(WeightsError, match=r"decoder\.conv_out\.conv\.bias"):
        load_codec(folder, CPU, torch.float32)
    with pytest.raises(WeightsError, match="no AutoencoderKLHunyuanVideo"):
        load_codec(tmp_path, CPU, torch.float32)


@torch.inference_mode()
def test_attention_frame_by_frame_is_the_masked_one() -> None:
    """`tiny` has none in its middle; the released autoencoder has."""
    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
    ).eval()
    latents, image = torch.randn(2, 16, 5, 6, 7), torch.randn(1, 3, 1, 48, 56)
    masked = vae.decoder(latents), vae.encoder(image)
    attend_frame_by_frame(vae)
    for before, after in zip(masked, (vae.decoder(latents), vae.encoder(image)), strict=True):
        assert before.std() > 0.1
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
