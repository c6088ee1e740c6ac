"""The two released loops as they are described, literally: index vectors and history buffers.

Slow and obvious on purpose; `framepack.generation.orders` is held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

ABSENT = None


@dataclass
class Iteration:
    """What one pass of a loop hands to the transformer.

    Frames are named by their number in the finished video, ABSENT ones are zeros.
    """

    target_positions: list[int]
    clean: list[tuple[int | None, int]]
    two: list[tuple[int | None, int]]
    four: list[tuple[int | None, int]]
    made: list[int]


def inverted(n: int, w: int = 9) -> list[Iteration]:
    paddings = list(range(n - 1, -1, -1)) if n <= 4 else [3] + [2] * (n - 3) + [1, 0]
    buffer: list[int | None] = [ABSENT] * 19
    iterations = []
    for step, p in enumerate(paddings):
        indices = list(range(1 + p * w + w + 1 + 2 + 16))
        pre, rest = indices[:1], indices[1 + p * w :]
        target, post, two, four = rest[:w], rest[w : w + 1], rest[w + 1 : w + 3], rest[w + 3 :]
        first = 1 + w * (n - 1 - step)
        made = list(range(first, first + w))
        iterations.append(
            Iteration(
                target_positions=target,
                clean=[(0, pre[0]), (buffer[0], post[0])],
                two=list(zip(buffer[1:3], two, strict=True)),
                four=list(zip(buffer[3:19], four, strict=True)),
                made=made,
            )
        )
        buffer = [*made, *buffer]
    return iterations


def forward(n: int, w: int = 9) -> list[Iteration]:
    indices = list(range(1 + 16 + 2 + 1 + w))
    start, four, two = indices[:1], indices[1:17], indices[17:19]
    one, target = indices[19:20], indices[20:]
    buffer: list[int | None] = [*[ABSENT] * 19, 0]
    iterations = []
    for step in range(n):
        last = buffer[-19:]
        made = list(range(1 + w * step, 1 + w * (step + 1)))
        iterations.append(
            Iteration(
                target_positions=target,
                clean=[(0, start[0]), (last[18], one[0])],
                two=list(zip(last[16:18], two, strict=True)),
                four=list(zip(last[:16], four, strict=True)),
                made=made,
            )
        )
        buffer = [*buffer, *made]
    return iterations
