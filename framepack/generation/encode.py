"""A prompt and a picture become everything a section is conditioned on, once a job."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from framepack.generation.conditioning import Conditioning, Prompt
from framepack.generation.plan import Plan
from framepack.generation.seeds import start_generator
from framepack.media.images import fit_image
from framepack.models.codec import SectionCodec
from framepack.models.image import ImageEncoder
from framepack.models.text import PooledEncoder, PromptEncoder
from framepack.models.wan_text import NoImageTokens, NoPooledText, WanPromptEncoder


@dataclass(frozen=True)
class Encoders:
    """All models that run before the first section.

    Attributes:
        prompt: Prompt to token states.
        pooled: Prompt to one vector.
        image: Picture to patch states.
        codec: Picture to the start latent.
    """

    prompt: PromptEncoder | WanPromptEncoder
    pooled: PooledEncoder | NoPooledText
    image: ImageEncoder | NoImageTokens
    codec: SectionCodec


def encode(
    encoders: Encoders, plan: Plan, image: UInt8[np.ndarray, "h w 3"] | None
) -> Conditioning:
    """Encode a job's prompts and picture.

    The image encoder and the codec see the same picture, cropped to the video's size. The start
    latent is sampled with `start_generator` of the request's seed, and so is the noise that some
    presets want it shown with. A negative prompt is encoded only where it has an effect, that is,
    with a cfg_scale other than 1. Where there is no picture, latent and image states are zeros, as
    every absent frame is.

    Args:
        encoders: The models.
        plan: The job.
        image: RGB of any size, as `framepack.media.images.open_image` returns it; None where the
            plan has none.

    Returns:
        Tensors on the encoders' device and in their dtype; the start latent fp32 on the CPU.

    Raises:
        ValueError: The plan was made with a picture and there is none, or the other way round.
    """
    if plan.pictured != (image is not None):
        raise ValueError("a plan is made for a picture or for none")
    negative = None
    if plan.cfg_scale != 1.0:
        negative = _prompt(encoders, plan.request.negative_prompt)
    states, start = _picture(encoders, plan, image)
    return Conditioning(
        prompts=tuple(_prompt(encoders, prompt) for prompt in plan.prompts),
        negative=negative,
        image=states,
        start=start,
    )


def _picture(
    encoders: Encoders, plan: Plan, image: UInt8[np.ndarray, "h w 3"] | None
) -> tuple[Float[Tensor, "1 n k"], Float[Tensor, "1 c 1 _ _"]]:
    """Image states and start latent."""
    if image is None:
        return encoders.image.absent(), torch.zeros(
            1, encoders.codec.channels, 1, *plan.latent_size
        )
    pixels = fit_image(image, (plan.height, plan.width))
    generator = start_generator(plan.request.seed)
    start = encoders.codec.encode_image(pixels, generator)
    if plan.config.start_noise is not None:
        start = noised_start(start, plan.config.start_noise, generator)
    return encoders.image.encode(pixels), start


def noised_start(
    start: Float[Tensor, "1 c 1 h w"], levels: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "1 c 1 h w"]:
    """The start latent on its way to noise, at a level drawn between two (Helios)."""
    low, high = levels
    level = low + (high - low) * torch.rand(1, generator=generator)
    noise = torch.randn(start.shape, generator=generator)
    return (1 - level) * start + level * noise


def _prompt(encoders: Encoders, prompt: str) -> Prompt:
    return Prompt(text=encoders.prompt.encode(prompt), pooled=encoders.pooled.encode(prompt))
