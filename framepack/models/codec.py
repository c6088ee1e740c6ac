"""What a video codec offers: one picture in, windows of latent frames out as pixels.

A long video cannot be decoded at once. Codecs of this kind decode *windows* of a few latent frames
that overlap and blend. The windows do not depend on each other, so each can be decoded as soon as
its own latent frames exist. Nothing outside a codec assumes its numbers: they are stated in a
`Tiling` and worked out in a `WindowGrid`, both plain arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """How a codec cuts time into windows.

    Attributes:
        window: Latent frames decoded together.
        stride: Latent frames from the start of one window to the start of the next.
        blend: Pixel frames over which a window fades in from the one before it.
        temporal_compression: Pixel frames per latent frame after the first.
    """

    window: int
    stride: int
    blend: int
    temporal_compression: int

    def __post_init__(self) -> None:
        if not (self.stride <= self.window <= 2 * self.stride + 1):
            raise ValueError(f"windows must leave no gap and reach neighbours only: {self}")
        if self.apart and self.blend:
            raise ValueError(f"windows that share no latent frame cannot fade: {self}")
        if self.blend > self.stride * self.temporal_compression:
            raise ValueError(f"a fade must end before the next one begins: {self}")

    @property
    def apart(self) -> bool:
        """Windows share no latent frame: each is a clip of its own, its first frame shown.

        The start picture's latent frame is then in none.
        """
        return self.stride == self.window

    def grid(self, shown: range) -> WindowGrid:
        """The windows of a video that shows these latent frame numbers."""
        return WindowGrid(self, shown)


@dataclass(frozen=True)
class WindowGrid:
    """The windows of one video, numbered from 0 by time.

    Window k > 0 gives away its first pixel frame (the causal codec makes it from one latent frame
    alone), fades in over the next ``blend`` frames from the end of window k - 1, and is shown up to
    where window k + 1 begins. Windows that lie `apart` give away and fade nothing.

    Attributes:
        tiling: The codec's.
        shown: Latent frame numbers that the video shows: from 0 with a start picture, from 1
            without one or where windows lie apart. The first becomes one pixel frame.
    """

    tiling: Tiling
    shown: range

    @property
    def num_windows(self) -> int:
        """Windows that show anything: a window of one latent frame at the end shows nothing."""
        if self.tiling.apart:
            return -(-len(self.shown) // self.tiling.window)  # ceil
        if len(self.shown) < self.tiling.window:
            return 1
        return 1 + (len(self.shown) - 2) // self.tiling.stride

    def latents(self, window: int) -> range:
        """Latent frame numbers that a window decodes."""
        first = window * self.tiling.stride
        return self.shown[first : first + self.tiling.window]

    def containing(self, latent_frame: int) -> range:
        """The windows that decode a latent frame."""
        t, place = self.tiling, latent_frame - self.shown.start
        first = -((t.window - 1 - place) // t.stride)  # ceil
        return range(max(0, first), min(place // t.stride + 1, self.num_windows))

    def frames(self, window: int) -> range:
        """Pixel frame numbers that a window yields, its given-away first frame left out."""
        scale, first = self.tiling.temporal_compression, window * self.tiling.stride
        extent = scale * (len(self.latents(window)) - 1) + 1
        if self.tiling.apart:
            first = window * (scale * (self.tiling.window - 1) + 1)
            return range(first, first + extent)
        return range(scale * first + (window > 0), scale * first + extent)

    def seam(self, window: int) -> range:
        """Pixel frames that a window and the one before it make together."""
        frames = self.frames(window)
        return frames[: self.tiling.blend] if window > 0 else frames[:0]

    def body(self, window: int) -> range:
        """Pixel frames that a window makes alone."""
        frames, stop = self.frames(window), self.frames(window).stop
        if window + 1 < self.num_windows:
            stop = self.frames(window + 1).start
        return range(frames.start + len(self.seam(window)), stop)


@runtime_checkable
class SectionCodec(Protocol):
    """Turns a start picture into a latent frame and windows of latent frames into pixels."""

    @property
    def tiling(self) -> Tiling:
        """How it cuts time into windows."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a latent frame."""
        ...

    def encode_image(
        self, pixels: UInt8[np.ndarray, "height width 3"], generator: torch.Generator
    ) -> Float[Tensor, "1 c 1 h w"]:
        """The scaled latent frame of a picture, fp32 on the CPU.

        The posterior is sampled, with noise from ``generator`` (on the CPU) and nothing else.
        """
        ...

    def decode_window(
        self, latents: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b 3 frames height width"]:
        """Pixels of scaled latent frames decoded together, about -1 to 1, in the codec's dtype.

        Always ``temporal_compression * (t - 1) + 1`` frames, on the codec's device.
        """
        ...
