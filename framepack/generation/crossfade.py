"""Official delivery: decode two sections' latents at a time and cross-fade with what was there.

With each section the official demo decodes its latents together with the neighbouring section's,
so that the overlap, ``4 * window - 3`` pixel frames, exists twice, and fades linearly from the
earlier to the later decode on the CPU in fp16. Only the overlap with the newest section can still
change, so everything else is final and can leave; the pictures are those of the demo's last file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from framepack.errors import InvalidRequest
from framepack.generation.plan import Plan
from framepack.generation.windows import LatentsOf, Pixels, decode_whole
from framepack.models.codec import SectionCodec


class CrossFade:
    """`framepack.generation.stitch.Delivery` equal to the official demo's video."""

    def __init__(self, codec: SectionCodec, plan: Plan) -> None:
        self._codec = codec
        self._plan = plan
        self._last: tuple[int, Pixels] | None = None

    @staticmethod
    def check(plan: Plan) -> None:
        """See `Delivery`. Every section must touch the one sampled before it, on one side."""
        if plan.config.sections_apart:
            raise InvalidRequest(
                "delivery",
                f"official cross-fades sections, which preset {plan.request.preset} decodes each "
                "alone; use aligned",
            )
        pairs = list(pairwise(plan.sections))
        onward = all(a.frames[-1] + 1 == b.frames[0] for a, b in pairs)
        backward = all(b.frames[-1] + 1 == a.frames[0] for a, b in pairs)
        if not (onward or backward):
            raise InvalidRequest(
                "delivery",
                f"official cross-fades each section with the one before it, which the {plan.order} "
                "order does not make side by side; use aligned",
            )

    def run(self, index: int) -> range:
        """See `Delivery`: what this section's decode covers and the next one's does not."""
        frames = self._frames(index)
        if index + 1 == len(self._plan.sections):
            return frames
        following = self._frames(index + 1)
        if following.start < frames.start:
            return range(max(frames.start, following.stop), frames.stop)
        return range(frames.start, min(frames.stop, following.start))

    def latents_needed(self, index: int) -> Sequence[int]:
        """See `Delivery`."""
        return sorted({*self._latents(index), *self._latents(max(0, index - 1))})

    def pixels(self, index: int, latents_of: LatentsOf) -> Pixels:
        """See `Delivery`. Remembers the last decode."""
        clip, frames, run = self._decode(index, latents_of), self._frames(index), self.run(index)
        last, self._last = self._last, (index, clip)
        if index == 0:
            return clip[:, :, run.start - frames.start : run.stop - frames.start]
        before = self._frames(index - 1)
        if last is None or last[0] != index - 1:
            last = index - 1, self._decode(index - 1, latents_of)
        if before.stop < frames.stop:
            joined = soft_append(last[1], clip, before.stop - frames.start)
        else:
            joined = soft_append(clip, last[1], frames.stop - before.start)
        first = min(before.start, frames.start)
        return joined[:, :, run.start - first : run.stop - first]

    def _latents(self, index: int) -> range:
        """Latent frames decoded with a section: its own and the section's before it in sampling.

        The start picture's, if there is one, joins the section beside it.
        """
        sections = self._plan.sections
        frames = [f for s in sections[max(0, index - 1) : index + 1] for f in s.frames]
        beside_start = sections[index].frames[0] == 1
        first = self._plan.shown_latents.start if beside_start else min(frames)
        return range(first, max(frames) + 1)

    def _frames(self, index: int) -> range:
        """Pixel frame numbers of a section's decode."""
        latents, scale = self._latents(index), self._plan.config.temporal_compression
        first = latents[0] - self._plan.shown_latents.start
        return range(scale * first, scale * (first + len(latents) - 1) + 1)

    def _decode(self, index: int, latents_of: LatentsOf) -> Pixels:
        pixels = decode_whole(self._codec, latents_of(self._latents(index)))
        return pixels.cpu().to(torch.float16)


def soft_append(earlier: Pixels, later: Pixels, overlap: int) -> Pixels:
    """Join two clips that share ``overlap`` frames, fading linearly from the earlier one.

    The weight of the earlier clip falls from 1 to 0 with both ends included, in its own dtype.
    """
    if overlap <= 0:
        return torch.cat([earlier, later], dim=2)
    if overlap > min(earlier.shape[2], later.shape[2]):
        raise ValueError(f"an overlap of {overlap} frames is longer than a clip")
    weight = torch.linspace(1, 0, overlap, dtype=earlier.dtype)[:, None, None]
    fade = weight * earlier[:, :, -overlap:] + (1 - weight) * later[:, :, :overlap]
    joined = torch.cat([earlier[:, :, :-overlap], fade, later[:, :, overlap:]], dim=2)
    return joined.to(earlier.dtype)
