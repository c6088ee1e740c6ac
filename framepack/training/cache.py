"""Each clip is encoded once: latents, start latent, text and image states in one safetensors file.

What depends on order, packing or window is cut from the cache while training and needs no new
cache. A file's name carries a key over everything that decides its content (the clip, the encoders'
weights, this module's version), so a changed encoder or clip never meets a stale file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from framepack.generation.encode import Encoders
from framepack.generation.seeds import start_generator
from framepack.training.sources import ClipSource, SourceClip
from framepack.types import Latents

VERSION = 1
_MOVING = 0.35
"""Mean distance from a cell's median, in latent deviations, beyond which it counts as moving."""


@dataclass(frozen=True)
class CachedPrompt:
    """Encoded text: (1, l, d) states and (1, d) pooled."""

    text: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class CachedClip:
    """An encoded clip.

    Attributes:
        latents: (c, t, h, w), half precision.
        start: (1, c, 1, h, w) latent of the first frame encoded as a picture, fp32: as generation
            gets it, a sample.
        image: (1, n, d) states of the image encoder for the first frame.
        prompt: The caption.
        caption: Its text.
        motion_weight: Error weight of moving cells, less one; see `weights`.
    """

    latents: Tensor
    start: Latents
    image: Tensor
    prompt: CachedPrompt
    caption: str
    motion_weight: float = 0.0

    @property
    def num_frames(self) -> int:
        """Latent frames, the start frame included."""
        return self.latents.shape[1]

    def frames(self, numbers: Sequence[int]) -> Latents:
        """(1, c, n, h, w) true latents of frames, fp32."""
        return self.latents[None, :, list(numbers)].float()

    def weights(self, numbers: Sequence[int]) -> Tensor:
        """(1, 1, n, h, w) weights of the error: higher where a cell differs from its median."""
        return self._weights[None, None, list(numbers)].float()

    @cached_property
    def _weights(self) -> Tensor:
        still = self.latents[:, ::4].float().median(dim=1, keepdim=True).values
        moving = (self.latents.float() - still).abs().mean(0) > _MOVING
        weight = 1 + self.motion_weight * moving.float()
        return (weight / weight.mean()).half()


def cache_key(clip_key: str, encoders_key: str) -> str:
    """Name of everything that decides a file's content."""
    content = json.dumps([VERSION, clip_key, encoders_key])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class LatentCache:
    """The files of one source in one folder."""

    def __init__(
        self, source: ClipSource, encoders: Encoders, encoders_key: str, folder: Path
    ) -> None:
        """Describe a cache; nothing is encoded yet.

        Args:
            source: Clips.
            encoders: Models of the preset that will be trained.
            encoders_key: Hash of their weights.
            folder: Where files lie.
        """
        self.source, self.encoders, self.folder = source, encoders, folder
        self.encoders_key = encoders_key
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def key(self) -> str:
        """Of all clips together."""
        names = ",".join(self.path(index).name for index in range(len(self.source)))
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def path(self, index: int) -> Path:
        """File of a clip."""
        key = cache_key(self.source.key(index), self.encoders_key)
        return self.folder / f"{index:06d}-{key}.safetensors"

    def fill(self, part: int = 0, parts: int = 1) -> int:
        """Encode what is missing of every ``parts``-th clip; returns how many that were."""
        missing = [i for i in range(part, len(self.source), parts) if not self.path(i).is_file()]
        for index in missing:
            self._write(index, self.source.clip(index))
        return len(missing)

    def load(self, motion_weight: float) -> list[CachedClip]:
        """All clips, in memory.

        Raises:
            FileNotFoundError: A clip is not encoded yet.
        """
        return [read_clip(self.path(i), motion_weight) for i in range(len(self.source))]

    def prompt(self, text: str) -> CachedPrompt:
        """Encode a prompt, such as the empty one."""
        with torch.inference_mode():
            states = self.encoders.prompt.encode(text), self.encoders.pooled.encode(text)
        return CachedPrompt(*(state.float().clone() for state in states))

    def _write(self, index: int, clip: SourceClip) -> None:
        prompt = self.prompt(clip.caption)
        codec: Any = self.encoders.codec
        tensors = {
            "latents": encode_video(codec.vae, clip)[0].half(),
            "start": codec.encode_image(clip.frames[0], start_generator(index)),
            "image": self.encoders.image.encode(clip.frames[0]),
            "text": prompt.text,
            "pooled": prompt.pooled,
        }
        path = self.path(index)
        partial = path.with_suffix(f".{part_suffix(index)}")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, partial, metadata={"caption": clip.caption, "version": str(VERSION)})
        partial.replace(path)


def part_suffix(index: int) -> str:
    """Of a file that is being written."""
    return f"{index}.partial"


def encode_video(vae: Any, clip: SourceClip) -> Latents:
    """Mean latents (1, c, 1 + k, h, w) of a clip, scaled; encoded as one causal video.

    In bf16, which the codec was trained in: it costs a fifth of the time and 0.02 dB.
    """
    pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mean: Tensor = vae.encode(pixels).latent_dist.mean
    scaled: Tensor = mean.float() * vae.config.scaling_factor
    return scaled


def read_clip(path: Path, motion_weight: float = 0.0) -> CachedClip:
    """A clip from its file."""
    with safe_open(path, framework="pt") as file:
        names = ("latents", "start", "image", "text", "pooled")
        latents, start, image, text, pooled = (file.get_tensor(name) for name in names)
        caption = file.metadata()["caption"]
    return CachedClip(
        latents, start, image.float(), CachedPrompt(text, pooled), caption, motion_weight
    )
