"""Equation 6 of the paper, one pixel at a time."""

import torch
from torch import Tensor


def literal_discretise(latents: Tensor, entries: Tensor) -> Tensor:
    """Nearest entry of each pixel of (1, c, t, h, w)."""
    result = torch.empty_like(latents)
    _, _, frames, height, width = latents.shape
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                pixel = latents[0, :, t, y, x]
                distances = [float((pixel - entry).square().sum()) for entry in entries]
                result[0, :, t, y, x] = entries[distances.index(min(distances))]
    return result
