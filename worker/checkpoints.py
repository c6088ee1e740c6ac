"""What a section leaves behind so that any worker can go on: tensors, and nothing else.

* section checkpoint: its fp32 latents, and the state of the noise generator after its noise was
  drawn, so that the next section's noise is the same on any worker.
* conditioning checkpoint: what the encoders made of prompt and picture.

Both are safetensors, which hold no code, and hold nothing that differs from one attempt to the
next: a section computed twice gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from torch import Tensor

from framepack.generation.conditioning import Conditioning
from framepack.types import Latents

CONTENT_TYPE = "application/octet-stream"

_LATENTS = "latents"
_GENERATOR = "generator"
_ENGINE = "engine"
_FORM = {"framepack": "1"}


class CheckpointError(Exception):
    """The bytes are no checkpoint of the kind asked for."""


@dataclass(frozen=True)
class SectionCheckpoint:
    """What one section leaves behind.

    Attributes:
        latents: (1, c, window, h, w), fp32.
        generator: State of the job's noise generator after this section's noise.
    """

    latents: Latents
    generator: UInt8[Tensor, " n"]

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        tensors = {_LATENTS: self.latents.contiguous(), _GENERATOR: self.generator}
        return safetensors.torch.save(tensors, metadata=_FORM)

    @classmethod
    def from_bytes(cls, data: bytes) -> SectionCheckpoint:
        """The inverse of `to_bytes`.

        Raises:
            CheckpointError: It is none.
        """
        tensors = _load(data)
        if set(tensors) != {_LATENTS, _GENERATOR} or tensors[_LATENTS].dtype != torch.float32:
            raise CheckpointError(f"not a section's checkpoint: it holds {sorted(tensors)}")
        return cls(latents=tensors[_LATENTS], generator=tensors[_GENERATOR])

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        return self.latents.nbytes + self.generator.nbytes


def conditioning_to_bytes(conditioning: Conditioning, engine: Mapping[str, str]) -> bytes:
    """A conditioning as a safetensors file, every tensor in its own dtype.

    Args:
        conditioning: What was encoded.
        engine: Details of the engine that is pinned with this, for the job's manifest.
    """
    tensors = {name: t.detach().cpu() for name, t in conditioning.to_tensors().items()}
    details = json.dumps(dict(sorted(engine.items())))
    return safetensors.torch.save(tensors, metadata={**_FORM, _ENGINE: details})


def engine_of_conditioning(data: bytes) -> dict[str, str] | None:
    """The details of the engine that encoded; None in a conditioning that holds none.

    Raises:
        CheckpointError: It is no conditioning checkpoint.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        return dict(json.loads(header[_ENGINE])) if _ENGINE in header else None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"not a safetensors file of ours: {error}") from error


def conditioning_from_bytes(data: bytes) -> Conditioning:
    """The inverse of `conditioning_to_bytes`, on the CPU.

    Raises:
        CheckpointError: It is none.
    """
    try:
        return Conditioning.from_tensors(_load(data))
    except KeyError as error:
        raise CheckpointError(f"not a conditioning checkpoint: {error} is missing") from error


def _load(data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"not a safetensors file: {error}") from error
