"""Wan's autoencoder as a section codec: every section is a clip of its own.

Wan's decoder is causal with a memory of all earlier frames, so no window of a long video can be
decoded by itself and equal the whole. Helios was trained on clips encoded one by one, each
beginning anew, and decodes them likewise: a section of 9 latent frames is 33 frames, joined to the
next without a fade (arXiv 2603.04379, and its diffusers pipeline).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float, UInt8
from torch import Tensor

from framepack.models.codec import Tiling
from framepack.models.vae import load_vae


class WanCodec:
    """`framepack.models.codec.SectionCodec` over diffusers' AutoencoderKLWan."""

    def __init__(self, vae: Any, window: int) -> None:
        """Args: vae: diffusers' autoencoder. window: Latent frames of a section."""
        self.vae = vae.eval().requires_grad_(False)
        config = vae.config
        self._tiling = Tiling(window, window, 0, config.scale_factor_temporal)
        shape = (1, config.z_dim, 1, 1, 1)
        self._mean = torch.tensor(config.latents_mean).view(shape)
        self._std = torch.tensor(config.latents_std).view(shape)

    @property
    def tiling(self) -> Tiling:
        """See `SectionCodec`."""
        return self._tiling

    @property
    def channels(self) -> int:
        """See `SectionCodec`."""
        channels: int = self.vae.config.z_dim
        return channels

    @torch.inference_mode()
    def encode_image(
        self, pixels: UInt8[np.ndarray, "height width 3"], generator: torch.Generator
    ) -> Float[Tensor, "1 c 1 h w"]:
        """See `SectionCodec`; each channel is brought to mean 0 and deviation 1."""
        image = torch.from_numpy(pixels.copy()).float() / 127.5 - 1
        image = image.permute(2, 0, 1)[None, :, None].to(self.vae.device, self.vae.dtype)
        posterior = self.vae.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        latents = (posterior.mean + posterior.std * noise).float().cpu()
        normal: Tensor = (latents - self._mean) / self._std
        return normal

    @torch.inference_mode()
    def decode_window(
        self, latents: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b 3 frames height width"]:
        """See `SectionCodec`."""
        scaled = latents.float().cpu() * self._std + self._mean
        pixels: Tensor = self.vae.decode(scaled.to(self.vae.device, self.vae.dtype)).sample
        return pixels


def load_wan_codec(folder: Path, device: torch.device, dtype: torch.dtype, window: int) -> WanCodec:
    """Load a diffusers-style ``vae`` folder.

    Raises:
        WeightsError: The folder holds no such VAE, or its tensors are not exactly the model's.
    """
    return WanCodec(load_vae(AutoencoderKLWan, folder, dtype).to(device), window)
