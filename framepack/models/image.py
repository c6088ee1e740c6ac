"""The start picture as the transformer's image tokens: the states of a SigLIP vision tower.

The picture is the one cropped to the video's size, squashed to the tower's square without keeping
its aspect ratio, as officially. The preprocessing is Pillow's, by the numbers of
preprocessor_config.json: transformers' own class changes its arithmetic with what is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import SiglipVisionModel

from framepack.errors import WeightsError
from framepack.models.checkpoints import load_pretrained
from framepack.models.loading import read_json


@dataclass(frozen=True)
class ImagePreprocessing:
    """What happens to a picture before the tower.

    Attributes:
        height: Pixels the tower sees; ``width`` likewise.
        resample: Pillow's number of the filter.
        scale: Factor to bring bytes to 0..1.
        mean: Subtracted from each channel, ``std``: divided by.
    """

    height: int
    width: int
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> ImagePreprocessing:
        """From a SiglipImageProcessor's preprocessor_config.json. Raises WeightsError."""
        steps = ("do_resize", "do_rescale", "do_normalize")
        if not all(config.get(step, True) for step in steps):
            raise WeightsError(f"an image processor without one of {', '.join(steps)}")
        try:
            return cls(
                height=config["size"]["height"],
                width=config["size"]["width"],
                resample=config.get("resample", Image.Resampling.BICUBIC),
                scale=config.get("rescale_factor", 1 / 255),
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
            )
        except (KeyError, TypeError) as error:
            raise WeightsError(f"not a SiglipImageProcessor's configuration: {error}") from error

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 height width"]:
        """The tower's input, fp32."""
        size = (self.width, self.height)
        squashed = Image.fromarray(pixels).resize(size, Image.Resampling(self.resample))
        values = np.asarray(squashed).astype(np.float32) * np.float32(self.scale)
        mean, std = (np.array(numbers, np.float32) for numbers in (self.mean, self.std))
        return torch.from_numpy((values - mean) / std).permute(2, 0, 1)[None].contiguous()


class ImageEncoder:
    """A picture to one state per patch, after the tower's last norm."""

    def __init__(self, model: Any, preprocessing: ImagePreprocessing) -> None:
        if model.use_head:  # pools the states, which nobody reads
            model.use_head = False
            del model.head
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.preprocessing = preprocessing

    @torch.inference_mode()
    def encode(self, pixels: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "1 n d"]:
        """States of a picture that already has the video's size."""
        values = self.preprocessing(pixels).to(self.model.device, self.model.dtype)
        states: Tensor = self.model(values).last_hidden_state
        return states

    def absent(self) -> Float[Tensor, "1 n d"]:
        """In the place of a picture's states where there is no picture: zeros, as many.

        The transformer's projection makes one and the same token of each, which training can give
        its meaning; and examples with a picture and without share a batch.
        """
        config = self.model.config
        patches = (config.image_size // config.patch_size) ** 2
        return torch.zeros(
            1, patches, config.hidden_size, dtype=self.model.dtype, device=self.model.device
        )


def load_image_encoder(
    folder: Path, processor: Path, device: torch.device, dtype: torch.dtype
) -> ImageEncoder:
    """Load a SigLIP vision tower and its processor's numbers. Raises WeightsError."""
    config = read_json(processor / "preprocessor_config.json")
    model = load_pretrained(SiglipVisionModel, folder, device, dtype)
    return ImageEncoder(model, ImagePreprocessing.from_json(config))
