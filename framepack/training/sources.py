"""Where training clips come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from framepack.world.render import render
from framepack.world.scene import Cast, draw_scene

WORLD_VERSION = 1
"""Raised when the same seed would render another clip."""


@dataclass(frozen=True)
class SourceClip:
    """Pixels and what they show; ``frames`` has 1 + 4k frames."""

    frames: UInt8[np.ndarray, "t h w 3"]
    caption: str


class ClipSource(Protocol):
    """A numbered set of clips."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Changes when the clip does; cheap."""
        ...

    def seed(self, index: int) -> int:
        """Of whatever is drawn when the clip is encoded; belongs to the clip, not to its place."""
        ...

    def clip(self, index: int) -> SourceClip:
        """The clip itself."""
        ...


@dataclass(frozen=True)
class WorldClips:
    """Scenes of the procedural world.

    Attributes:
        first_seed: Seed of clip 0.
        count: How many.
        num_frames: Pixel frames each, 1 + 4k.
        pixels: Height and width.
        cast: What things may be; None for what base models are trained on.
    """

    first_seed: int
    count: int
    num_frames: int
    pixels: int = 64
    cast: Cast | None = None

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """Seed, size, cast and the version of the world."""
        cast = "" if self.cast is None else f" {self.cast}"
        size = (self.num_frames, self.pixels)
        return f"world {WORLD_VERSION} {size}{cast} {self.first_seed + index}"

    def seed(self, index: int) -> int:
        """The scene's number in the set, which only ever grows at its end."""
        return index

    def clip(self, index: int) -> SourceClip:
        """Render a scene."""
        scene = draw_scene(self.first_seed + index, cast=self.cast)
        return SourceClip(render(scene, self.num_frames, self.pixels).frames, scene.caption)
