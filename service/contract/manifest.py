"""Everything that decided the bytes of a finished video, written with it to make it again.

The same request, picture and engines give the same bytes (house rule of the engine fingerprint);
`framepack reproduce` does it and compares. What was left to defaults is spelled out in `request`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.job import Artifact


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EngineOf(_Part):
    """What computed one half of the job.

    Attributes:
        fingerprint: Short for the details; equal ones give equal bytes.
        details: Weights by their SHA-256, library versions, precision, device, caches, attention.
            Both are null where a worker of an older version encoded.
    """

    fingerprint: str | None
    details: dict[str, str] | None


class ManifestImage(_Part):
    """The picture as it was stored: upright, RGB, PNG. Sizes in pixels."""

    sha256: str
    size_bytes: int
    height: int
    width: int


class ManifestVideo(_Part):
    """What came of it."""

    sha256: str
    size_bytes: int
    num_frames: int
    fps: int
    height: int
    width: int


class Manifest(_Part):
    """Everything needed to make a video again.

    Attributes:
        request: As it can be submitted again, with the seed, and nothing left to defaults.
        sampling: What the preset decided besides: sampler, first sigma, step cache.
        engines: Of the lanes: `render` (encoders, transformer) and `deliver` (codec, mp4).
        software: Versions of this service and of Python.
    """

    object: Literal["manifest"] = "manifest"
    version: Literal[1] = 1
    job_id: str
    request: dict[str, Any] = Field(json_schema_extra={"additionalProperties": True})
    image: ManifestImage | None = None
    num_sections: int
    sampling: dict[str, str]
    engines: dict[str, EngineOf]
    software: dict[str, str]
    video: ManifestVideo


def manifest_key(video: Artifact) -> str:
    """Where a video's manifest lies: beside it, under the same attempt's name."""
    return f"{video.key.rpartition('.')[0]}.manifest.json"
