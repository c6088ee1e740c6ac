"""Curves as a picture: what a dashboard's panel was answered, for somebody to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 480, 260
LEFT, TOP, RIGHT, BOTTOM = 44, 72, WIDTH - 10, HEIGHT - 22
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")
MOST_GAP_SECONDS = 3.0
"""Points further apart than this are not joined: a gap is to be seen as one."""

Points = Sequence[tuple[float, float]]


def drawn(title: str, series: Sequence[tuple[str, Points]]) -> Image.Image:
    """Curves from zero up, with the most and the length in seconds at the axes.

    Args:
        title: Above all.
        series: A legend and (time, value) pairs for each curve.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    draw.text((6, 3), title, "black", font)
    finite = [(at, value) for _, points in series for at, value in points if math.isfinite(value)]
    if not finite:
        draw.text((LEFT, TOP), "no data", "red", font)
        return picture
    first, last = min(at for at, _ in finite), max(at for at, _ in finite)
    most = max(value for _, value in finite) or 1.0
    draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline="#cccccc")
    draw.text((2, TOP - 6), f"{most:.3g}", "black", font)
    draw.text((RIGHT - 40, BOTTOM + 4), f"{last - first:.0f} s", "black", font)

    def place(at: float, value: float) -> tuple[float, float]:
        across = (at - first) / max(1.0, last - first)
        return LEFT + across * (RIGHT - LEFT), BOTTOM - value / most * (BOTTOM - TOP)

    for number, (legend, points) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        if number < 12:
            draw.text((8 + 155 * (number % 3), 17 + 12 * (number // 3)), legend[:28], colour, font)
        placed = [(at, *place(at, value)) for at, value in points if math.isfinite(value)]
        _curve(draw, placed, colour)
    return picture


def _curve(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float, float]], colour: str
) -> None:
    for _, x, y in points:
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=colour)
    for (earlier, *start), (later, *end) in pairwise(points):
        if later - earlier < MOST_GAP_SECONDS:
            draw.line((*start, *end), fill=colour, width=2)
