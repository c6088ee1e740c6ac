"""Orders nobody released, and text-to-video, literally: what is in the buffers at each section.

Slow and obvious on purpose; `framepack.generation.orders` is held against it. Frames are named by
their number in the video; ABSENT ones are zeros. Without a picture there is no frame 0, and the
video's first frame takes its place once it is made, as in diffusers' Helios pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

ABSENT = None


@dataclass
class Pass:
    """One section: what is made, and what is seen at each kernel as (frame, position) pairs."""

    made: list[int]
    target: list[int]
    start: list[tuple[int | None, int]]
    one: list[tuple[int | None, int]]
    two: list[tuple[int | None, int]]
    four: list[tuple[int | None, int]]


def text_forward(n: int, *, anchored: bool, w: int = 9) -> list[Pass]:
    """From no picture, section after section; ``anchored`` remembers the video's first frame."""
    buffer: list[int | None] = [ABSENT] * 19
    first: int | None = ABSENT
    passes = []
    for section in range(n):
        made = [1 + w * section + i for i in range(w)]
        last = buffer[-19:]
        passes.append(
            Pass(
                made=made,
                target=list(range(20, 20 + w)),
                start=[(first, 0)] if anchored else [],
                one=[(last[18], 19)],
                two=[(last[16], 17), (last[17], 18)],
                four=[(last[i], 1 + i) for i in range(16)],
            )
        )
        if first is ABSENT:
            first = made[0]
        buffer += made
    return passes


def planned(n: int, ends: list[int], *, pictured: bool, w: int = 9) -> list[Pass]:
    """Endpoints from the last, the first section, then the gaps: a table, filled as it is made."""
    made_so_far: set[int] = {0} if pictured else set()

    def shown(frame: int) -> int | None:
        return frame if frame in made_so_far else ABSENT

    passes = []
    for section in dict.fromkeys([*reversed(ends), 0, *range(n)]):
        made = [1 + w * section + i for i in range(w)]
        begin = made[0]
        later = min((f for f in made_so_far if f > begin), default=1 + w * n)
        passes.append(
            Pass(
                made=made,
                target=made,
                start=[(0 if pictured else shown(1), 0)],
                one=[(shown(begin - 1), begin - 1), (shown(later), later)],
                two=[(shown(begin - 3), begin - 3), (shown(begin - 2), begin - 2)],
                four=[(shown(begin - 19 + i), begin - 19 + i) for i in range(16)],
            )
        )
        made_so_far |= set(made)
    return passes


def pixel_frames(num_latent_frames: int, scale: int = 4) -> int:
    """A causal codec: one frame from the first latent frame, then so many from each."""
    total = 0
    for latent in range(num_latent_frames):
        total += 1 if latent == 0 else scale
    return total
