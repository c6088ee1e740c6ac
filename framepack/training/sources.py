"""Where training clips come from."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from framepack.world.render import render
from framepack.world.scene import draw_scene

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
    """

    first_seed: int
    count: int
    num_frames: int
    pixels: int = 64

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """Seed, size and the version of the world."""
        return f"world {WORLD_VERSION} {astuple(self)[2:]} {self.first_seed + index}"

    def clip(self, index: int) -> SourceClip:
        """Render a scene."""
        scene = draw_scene(self.first_seed + index)
        return SourceClip(render(scene, self.num_frames, self.pixels).frames, scene.caption)
