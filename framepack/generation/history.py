"""The latents made so far, by latent frame number of the finished video.

Absent frames are zeros: frames outside the video, and frames not generated yet. A history may hold
only what the next section needs, so its memory need not grow with the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.generation.orders import Section
from framepack.types import Latents


def frames_needed(section: Section) -> frozenset[int]:
    """Latent frames that a section sees or chooses from, those that turn out absent included.

    Their number is bounded by the schedule, unless it keeps its tail or the frames of its packs are
    ranked: then it is all that has been made, 4 MB a section of the released models.
    """
    seen = {frame for level in section.context for frame in level.frames}
    return frozenset(seen.union(section.candidates, section.restart))


def sections_needed(section: Section, sections: Sequence[Section]) -> list[Section]:
    """Earlier sampled sections that a section sees something of, in the order of sampling."""
    needed = frames_needed(section)
    earlier = (other for other in sections if other.index < section.index)
    return [other for other in earlier if not needed.isdisjoint(other.frames)]


class History:
    """Single latent frames on the CPU, in fp32."""

    def __init__(self, start: Float[Tensor, "1 c 1 h w"]) -> None:
        """Begin with the start picture's latent as frame 0."""
        self._zero = torch.zeros_like(start, dtype=torch.float32, device="cpu")
        self._frames: dict[int, Tensor] = {}
        self.add((0,), start)

    def add(self, numbers: Sequence[int], latents: Latents) -> None:
        """Store latents of frames by their numbers.

        Raises:
            ValueError: Numbers and latent frames differ in count.
        """
        if len(numbers) != latents.shape[2]:
            raise ValueError(f"{len(numbers)} numbers for {latents.shape[2]} latent frames")
        held = latents.detach().to("cpu", torch.float32)
        for index, number in enumerate(numbers):
            self._frames[number] = held[:, :, index : index + 1].clone()

    def frames(self, numbers: Iterable[int]) -> Latents:
        """(1, c, n, h, w): the latents of some frames in the order given, zeros where absent."""
        return torch.cat([self._frames.get(number, self._zero) for number in numbers], dim=2)

    def keep(self, numbers: Iterable[int]) -> None:
        """Forget all other frames, except the start picture's."""
        kept = {0, *numbers}
        self._frames = {n: latents for n, latents in self._frames.items() if n in kept}

    def __len__(self) -> int:
        return len(self._frames)
