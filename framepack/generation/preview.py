"""A rough picture of latents for next to nothing: the codec's decoder as one linear map.

A denoising step's estimate is worth looking at, but decoding it costs more than the step. The map
from a latent to the block of pixels above it is fitted by least squares on one made-up picture that
the codec encodes, once a process; so it holds for any codec and needs no table of numbers. Colours
and shapes are right, fine texture is not (about 23 dB on the pictures of `tiny`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from framepack.models.codec import SectionCodec
from framepack.types import Latents

LONGEST_SIDE = 192
"""Of a preview, in pixels."""

_LARGEST_BLOCK = 8
_CALIBRATION_SIDE = 256
_CALIBRATION_SEED = 20240417
_RIDGE = 1e-3


@dataclass(frozen=True)
class LinearDecoder:
    """Latents to small pictures.

    Attributes:
        weights: (channels + 1, 3 * block * block); the last row is the constant.
        block: Pixels a side of the block that each latent becomes.
    """

    weights: Float[Tensor, "features outputs"]
    block: int

    def to(self, device: torch.device) -> LinearDecoder:
        """The same on a device."""
        return LinearDecoder(self.weights.to(device), self.block)

    def picture(self, latents: Latents) -> UInt8[Tensor, "height width 3"]:
        """The frame in the middle of some latents, where they are; nothing is waited for."""
        frame = latents[0, :, latents.shape[2] // 2].float()
        _, height, width = frame.shape
        flat = frame.flatten(1).T @ self.weights[:-1] + self.weights[-1]
        size = (height * self.block, width * self.block)
        pixels = F.fold(flat.T[None], size, self.block, stride=self.block)[0]
        return ((pixels.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(1, 2, 0)


def fit_linear_decoder(codec: SectionCodec, latent_size: tuple[int, int]) -> LinearDecoder:
    """Fit the map for pictures of a size.

    Args:
        codec: Encodes the made-up picture; its own random numbers are not touched.
        latent_size: (height, width) of the latents that will be shown.
    """
    block = max(1, min(_LARGEST_BLOCK, LONGEST_SIDE // max(latent_size)))
    generator = torch.Generator().manual_seed(_CALIBRATION_SEED)
    pixels = _colourful(_CALIBRATION_SIDE, generator)
    latents = codec.encode_image(pixels, generator)[0, :, 0].double()
    _, height, width = latents.shape
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 127.5 - 1
    small = F.interpolate(picture, size=(height * block, width * block), mode="area")
    wanted = F.unfold(small, block, stride=block)[0].T
    given = torch.cat([latents.flatten(1).T, torch.ones(height * width, 1).double()], dim=1)
    ridge = _RIDGE * len(given) * torch.eye(given.shape[1]).double()
    weights = torch.linalg.solve(given.T @ given + ridge, given.T @ wanted)
    return LinearDecoder(weights.float(), block)


def _colourful(side: int, generator: torch.Generator) -> UInt8[np.ndarray, "side side 3"]:
    """Soft random colours at every scale, so that no direction of the latents is left out."""
    total = torch.zeros(1, 3, side, side)
    for cells in (4, 8, 16, 32, 64):
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        total += F.interpolate(noise, size=(side, side), mode="bicubic") / cells**0.25
    picture: UInt8[np.ndarray, "side side 3"] = (
        (torch.sigmoid(1.5 * total[0]) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    )
    return picture
