"""Which pixel frames become final with a section, and what they are.

Once a frame has left, it is encoded and never touched again, so a section delivers exactly the
frames that no later section can change. The runs of all sections are the whole video, each frame
once. Two ways to make them:

``aligned`` (default)
    The codec's own windows, laid out once over the whole video, each decoded when its latent frames
    are known. Bit for bit what decoding the whole video at once gives, at 1.84 times less work than
    the official way.

``official``
    What the official demo shows: `framepack.generation.crossfade`.

Either way a run is a pure function of the committed latents: what a process remembers from one
section to the next only saves work, and a fresh process gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.generation.crossfade import CrossFade
from framepack.generation.plan import Plan
from framepack.generation.windows import AlignedWindows, LatentsOf
from framepack.models.codec import SectionCodec


@dataclass(frozen=True)
class PixelRun:
    """Consecutive frames that became final.

    Attributes:
        first_frame: Number of the first one in the video, from 0.
        frames: RGB; may be empty (the first section of the official way delivers none).
    """

    first_frame: int
    frames: UInt8[np.ndarray, "n height width 3"]


@runtime_checkable
class Delivery(Protocol):
    """One way to make the runs. Sections are named by their index in the order of sampling."""

    def __init__(self, codec: SectionCodec, plan: Plan) -> None: ...

    @staticmethod
    def check(plan: Plan) -> None:
        """Raises InvalidRequest if the plan's order of sections does not allow this way."""
        ...

    def run(self, index: int) -> range:
        """Pixel frame numbers that become final with a section."""
        ...

    def latents_needed(self, index: int) -> Sequence[int]:
        """Latent frame numbers a fresh process needs to make the run, ascending."""
        ...

    def pixels(self, index: int, latents_of: LatentsOf) -> Float[Tensor, "1 3 n height width"]:
        """The run's pixels, about -1 to 1."""
        ...


class SectionDecoder:
    """Turns committed latents into final frames, one section at a time.

    Sections may be decoded in the order of sampling by one instance, which then decodes nothing
    twice, or each by a fresh instance: the frames are the same.
    """

    def __init__(self, codec: SectionCodec, plan: Plan, delivery: str = "aligned") -> None:
        """Raises InvalidRequest as `check_delivery` does."""
        check_delivery(delivery, plan)
        self._plan = plan
        self._delivery = DELIVERIES[delivery](codec, plan)

    def run(self, index: int) -> range:
        """Pixel frame numbers that become final with section ``index`` of the order of sampling."""
        return self._delivery.run(index)

    def latent_frames_needed(self, index: int) -> tuple[int, ...]:
        """Latent frame numbers a fresh process needs to decode a section, ascending."""
        return tuple(self._delivery.latents_needed(index))

    def sections_needed(self, index: int) -> tuple[int, ...]:
        """Sections (by sampling index, ascending) whose latents a fresh process needs.

        The start picture's latent frame belongs to none of them.
        """
        needed = frozenset(self.latent_frames_needed(index))
        earlier = self._plan.sections[: index + 1]
        return tuple(s.index for s in earlier if not needed.isdisjoint(s.frames))

    def decode(self, index: int, latents_of: LatentsOf) -> PixelRun:
        """The frames that become final with a section.

        Args:
            index: The section, counted in the order of sampling.
            latents_of: Gives the latents (1, c, n, h, w) of latent frame numbers; is asked for
                frames in `latent_frames_needed` only.
        """
        run = self.run(index)
        pixels = self._delivery.pixels(index, latents_of)
        return PixelRun(run.start, to_uint8(pixels))


def check_delivery(delivery: str, plan: Plan) -> None:
    """Find out before any model is loaded whether a plan can be delivered in a way.

    Raises:
        InvalidRequest: The delivery does not exist, or the plan's order does not allow it.
    """
    if delivery not in DELIVERIES:
        known = ", ".join(DELIVERIES)
        raise InvalidRequest("delivery", f"there is no {delivery!r}; choose one of: {known}")
    DELIVERIES[delivery].check(plan)


def to_uint8(pixels: Float[Tensor, "1 3 n height width"]) -> UInt8[np.ndarray, "n height width 3"]:
    """Pixels of -1 to 1 as bytes: clamped, scaled to 0 to 255, truncated, as the official code."""
    scaled = pixels[0].float().clamp(-1, 1) * 127.5 + 127.5
    frames: UInt8[np.ndarray, "n height width 3"]
    frames = scaled.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


DELIVERIES: Mapping[str, type[Delivery]] = {
    "aligned": AlignedWindows,
    "official": CrossFade,
}
"""By the name a request uses."""
