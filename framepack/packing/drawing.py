"""A schedule's layout as a picture, to lay beside Figure 1 of the paper (SVG, torch-free).

Two rows in time order. Above, one box for each latent frame. Below, what the transformer sees: a
box as wide as its tokens for each temporal slot of a level. Full length is dark, and each halving
of a frame's length is lighter, so equal colours cost equally.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import ceil, log2

from framepack.packing.accounting import worth
from framepack.packing.schedule import BASE_KERNEL, Element, Level, Pack, PackingSchedule, Tail

WIDTH = 960
MARGIN = 16
ROW = 56
GAP = 28
LIGHTEST = 12
"""Halvings until the colour stays; k16 is 4096 times shorter than k1."""


@dataclass(frozen=True)
class _Box:
    """A rectangle of a row, its width in the row's own unit."""

    extent: float
    colour: str
    title: str
    label: str = ""


def draw(schedule: PackingSchedule, height: int, width: int) -> str:
    """An SVG document.

    Args:
        schedule: What to draw.
        height: Of the latent grid; the tokens' widths depend on it.
        width: Of the latent grid.
    """
    elements: list[Element | int] = [*schedule.earlier, schedule.window, *schedule.later]
    frames = [box for element in elements for box in _frame_boxes(element)]
    tokens = [box for element in elements for box in _token_boxes(element, height, width)]
    total = schedule.context_tokens(height, width) + schedule.target_tokens(height, width)
    bottom = 3 * MARGIN + 2 * (ROW + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" '
        'font-family="sans-serif" font-size="13">',
        f"<title>{escape(str(schedule))}</title>",
        f'<rect width="{WIDTH}" height="{bottom}" fill="white"/>',
        *_row(f"{schedule}: latent frames, oldest first", frames, MARGIN),
        *_row(f"{total} tokens on a latent grid of {height}x{width}", tokens, bottom // 2),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _row(caption: str, boxes: list[_Box], top: int) -> Iterator[str]:
    unit = (WIDTH - 2 * MARGIN) / sum(box.extent for box in boxes)
    yield f'<text x="{MARGIN}" y="{top + 14}">{escape(caption)}</text>'
    left, y = float(MARGIN), top + GAP
    for box in boxes:
        extent = box.extent * unit
        yield (
            f'<rect x="{left:.2f}" y="{y}" width="{extent:.2f}" height="{ROW}" '
            f'fill="{box.colour}" stroke="white" stroke-width="0.5">'
            f"<title>{escape(box.title)}</title></rect>"
        )
        if box.label and extent > 9 * len(box.label):
            x = left + extent / 2
            yield f'<text x="{x:.2f}" y="{y + 33}" text-anchor="middle">{escape(box.label)}</text>'
        left += extent


def _frame_boxes(element: Element | int) -> Iterator[_Box]:
    """A box a frame; skips and tails stand for any number and get one."""
    if isinstance(element, int):
        yield from [_Box(1, _TARGET, "generated", "g")] * element
    elif isinstance(element, Pack):
        for level in element.levels:
            box = _Box(1, _colour(level), str(level), str(level.kernel))
            yield from [box] * level.frames
    else:
        yield _Box(1, _UNSEEN, str(element), "..." if isinstance(element, Tail) else "x")


def _token_boxes(element: Element | int, height: int, width: int) -> Iterator[_Box]:
    """A box a temporal slot; what is not seen has none."""
    if isinstance(element, int):
        tokens = Level(1, BASE_KERNEL).tokens(height, width)
        yield from [_Box(tokens, _TARGET, f"generated: {tokens} tokens", "g")] * element
    elif isinstance(element, Pack):
        for level in element.levels:
            slots = ceil(level.frames / level.kernel.t)
            tokens = level.tokens(height, width) // slots
            title = f"{level}: {tokens} tokens a slot"
            yield from [_Box(tokens, _colour(level), title, str(level.kernel))] * slots


_TARGET = "#f2a541"
_UNSEEN = "#e6e6e6"
_DARK, _LIGHT = (84, 146, 208), (208, 226, 245)


def _colour(level: Level) -> str:
    share = min(-log2(worth(level.kernel)), LIGHTEST) / LIGHTEST
    mixed = (round(d + (li - d) * share) for d, li in zip(_DARK, _LIGHT, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
