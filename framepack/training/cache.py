"""Each clip is encoded once: latents, start latent, text and image states in one safetensors file.

What depends on order, packing or window is cut from the cache while training and needs no new
cache. A file's name carries a key over everything that decides its content (the clip, the encoders'
weights, this module's version), so a changed encoder or clip never meets a stale file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

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
        if not self.motion_weight:
            return torch.ones(1, 1, len(numbers), *self.latents.shape[2:])
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


class HasEncoders(Protocol):
    """`framepack.presets.Models`, or what stands for it; loads nothing before it is asked."""

    @property
    def encoders(self) -> Encoders:
        """Models of the preset that will be trained."""
        ...


class LatentCache:
    """The files of one source in one folder, and the empty prompt's."""

    def __init__(
        self, source: ClipSource, models: HasEncoders, encoders_key: str, folder: Path
    ) -> None:
        """Describe a cache; nothing is encoded yet.

        Args:
            source: Clips.
            models: Asked for its encoders only while something is encoded.
            encoders_key: Hash of their weights.
            folder: Where files lie.
        """
        self.source, self.models, self.folder = source, models, folder
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
        return self.folder / f"{self.source.seed(index):06d}-{key}.safetensors"

    def fill(self, part: int = 0, parts: int = 1) -> int:
        """Encode what is missing of every ``parts``-th clip; returns how many that were."""
        missing = [i for i in range(part, len(self.source), parts) if not self.path(i).is_file()]
        for index in missing:
            self._write(index, self.source.clip(index))
        if part == 0 and not self._uncaptioned.is_file():
            prompt = self._prompt("")
            _save(self._uncaptioned, {"text": prompt.text, "pooled": prompt.pooled}, "")
        return len(missing)

    def load(self, motion_weight: float) -> list[CachedClip]:
        """All clips, in memory.

        Raises:
            FileNotFoundError: A clip is not encoded yet.
        """
        return [read_clip(self.path(i), motion_weight) for i in range(len(self.source))]

    def uncaptioned(self) -> CachedPrompt:
        """The encoded empty prompt.

        Raises:
            FileNotFoundError: It is not encoded yet.
        """
        with safe_open(self._uncaptioned, framework="pt") as file:
            return CachedPrompt(file.get_tensor("text"), file.get_tensor("pooled"))

    @property
    def _uncaptioned(self) -> Path:
        return self.folder / f"uncaptioned-{cache_key('', self.encoders_key)}.safetensors"

    def _prompt(self, text: str) -> CachedPrompt:
        encoders = self.models.encoders
        with torch.inference_mode():
            states = encoders.prompt.encode(text), encoders.pooled.encode(text)
        return CachedPrompt(*(state.float().cpu().clone() for state in states))

    def _write(self, index: int, clip: SourceClip) -> None:
        prompt, encoders = self._prompt(clip.caption), self.models.encoders
        codec: Any = encoders.codec
        generator = start_generator(self.source.seed(index))
        tensors = {
            "latents": encode_video(codec.vae, clip)[0].half(),
            "start": codec.encode_image(clip.frames[0], generator),
            "image": encoders.image.encode(clip.frames[0]).cpu(),
            "text": prompt.text,
            "pooled": prompt.pooled,
        }
        _save(self.path(index), tensors, clip.caption)


def _save(path: Path, tensors: Mapping[str, Tensor], caption: str) -> None:
    """Write a file that is either complete or absent."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial, metadata={"caption": caption, "version": str(VERSION)})
    partial.replace(path)


def encode_video(vae: Any, clip: SourceClip) -> Latents:
    """Mean latents (1, c, 1 + k, h, w) of a clip, scaled; encoded as one causal video.

    A codec on a CPU computes in bf16: a fifth of the time, and 0.02 dB for that of ``tiny``.
    """
    pixels = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    on_cpu = vae.device.type == "cpu"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=on_cpu):
        mean: Tensor = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean
    scaled: Tensor = mean.float().cpu() * vae.config.scaling_factor
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
