"""What a clip of the procedural world shows: drawn from a seed, described by a caption.

One or two shapes move over a still, textured background. Everything is stated in a square of 64
units, whatever the number of pixels it is drawn with. Sizes and speeds are those a codec of 8 x 8 x
4 can carry at 64 pixels: shapes at least 18 units across, at most 1 unit a pixel frame.

Captions use whole words of a closed vocabulary. Object and background colours have no word in
common, so that a caption with one object is unambiguous even to a reader that forgets its order.

Some colours and one shape are kept back: no base model is trained on them, so that teaching one of
them shows what a fine-tune does. A `Cast` says which things a scene is drawn from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from framepack.errors import InvalidRequest

Colour = tuple[float, float, float]
Shape = Literal["ball", "square", "triangle", "ring", "cross"]
Pattern = Literal["plain", "striped", "checkered", "dotted"]
Motion = Literal["slides", "moves", "bounces", "circles", "drifts"]

SIDE = 64.0
"""Units across and down."""

SHAPES: tuple[Shape, ...] = ("ball", "square", "triangle", "ring")
UNSEEN_SHAPES: tuple[Shape, ...] = ("cross",)
"""Drawn only where a cast asks for it."""

PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

MOTIONS: Mapping[Motion, str] = {
    "slides": "slides left and right",
    "moves": "moves up and down",
    "bounces": "bounces on the floor",
    "circles": "circles around",
    "drifts": "drifts diagonally",
}
"""How a caption tells each motion."""

COLOURS: Mapping[str, Colour] = {
    "red": (0.90, 0.14, 0.14),
    "green": (0.16, 0.75, 0.26),
    "blue": (0.16, 0.32, 0.92),
    "yellow": (0.95, 0.86, 0.16),
    "magenta": (0.86, 0.20, 0.80),
    "cyan": (0.15, 0.80, 0.86),
    "orange": (0.96, 0.55, 0.10),
    "white": (0.96, 0.96, 0.96),
}

UNSEEN_COLOURS: Mapping[str, Colour] = {
    "purple": (0.45, 0.12, 0.72),
    "pink": (0.98, 0.62, 0.72),
    "black": (0.04, 0.04, 0.05),
}
"""Drawn only where a cast asks for them. The vocabulary of ``tiny`` has the words."""

ALL_COLOURS: Mapping[str, Colour] = {**COLOURS, **UNSEEN_COLOURS}

BACKGROUNDS: Mapping[str, Colour] = {
    "dark": (0.12, 0.12, 0.16),
    "grey": (0.50, 0.50, 0.52),
    "brown": (0.42, 0.28, 0.18),
    "navy": (0.10, 0.14, 0.36),
    "olive": (0.36, 0.38, 0.15),
    "teal": (0.08, 0.35, 0.36),
}

RADIUS = (9.0, 13.5)
SPEED = (0.35, 0.9)
TWO_OBJECTS = 0.25
"""Share of scenes with two objects."""

FIRST_HELD_OUT_SEED = 1_000_000_000
"""Scenes from this seed on are never trained on."""


@dataclass(frozen=True)
class Background:
    """A still texture under everything.

    Attributes:
        colour: Key of `BACKGROUNDS`.
        pattern: What is printed on it.
        angle: Of the pattern, in radians.
        period: Of the pattern, in units.
        phase: Of the pattern, in radians.
        gradient: Brightness added from the middle to the lower edge, taken away above.
    """

    colour: str
    pattern: Pattern
    angle: float
    period: float
    phase: float
    gradient: float


@dataclass(frozen=True)
class Thing:
    """One moving shape.

    Attributes:
        colour: Key of `ALL_COLOURS`.
        shape: What it is.
        motion: How it moves; the laws are in `framepack.world.motion`.
        radius: Half its extent, in units.
        x: Where its centre would be at time 0, in units; ``y`` likewise.
        speed: Units a pixel frame along its path, at its fastest except when it bounces.
        heading: 1 or -1, the sense in which it sets out.
        phase: 0 to 1, where in its period a periodic motion starts.
    """

    colour: str
    shape: Shape
    motion: Motion
    radius: float
    x: float
    y: float
    speed: float
    heading: int
    phase: float


@dataclass(frozen=True)
class Scene:
    """Everything a clip shows, at all times.

    Attributes:
        background: Behind the things.
        things: From back to front.
        start: Pixel frames that have passed when the clip begins.
    """

    background: Background
    things: tuple[Thing, ...]
    start: float

    @property
    def caption(self) -> str:
        """What a stranger would say it shows."""
        things = " and ".join(
            f"{_article(thing.colour)} {thing.shape} that {MOTIONS[thing.motion]}"
            for thing in self.things
        )
        ground = self.background
        return f"{things} over a {ground.pattern} {ground.colour} background"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


@dataclass(frozen=True)
class Cast:
    """What the things of a scene may be; the default is what base models are trained on.

    Attributes:
        colours: Keys of `ALL_COLOURS`.
        shapes: From `SHAPES` and `UNSEEN_SHAPES`.

    Raises:
        InvalidRequest: A name is unknown, or there is none.
    """

    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[Shape, ...] = SHAPES

    def __post_init__(self) -> None:
        for field, known in (("colours", ALL_COLOURS), ("shapes", (*SHAPES, *UNSEEN_SHAPES))):
            names = getattr(self, field)
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                wrong = f"there is no {', '.join(unknown)}" if unknown else "name at least one"
                raise InvalidRequest(field, f"{wrong}; choose from {', '.join(known)}")


def draw_scene(seed: int, num_things: int | None = None, cast: Cast | None = None) -> Scene:
    """The scene of a seed, the same on every machine.

    Args:
        seed: Any integer; from `FIRST_HELD_OUT_SEED` on for evaluation.
        num_things: 1 or 2; drawn if None. Never more than the cast has colours.
        cast: What things may be; the default if None.
    """
    cast = cast or Cast()
    # Python's Mersenne Twister, not NumPy's generators: its stream is fixed by the language.
    rng = random.Random(f"framepack world {seed}")
    background = Background(
        colour=rng.choice(tuple(BACKGROUNDS)),
        pattern=rng.choice(PATTERNS),
        angle=rng.uniform(0, math.pi),
        period=rng.uniform(12, 20),
        phase=rng.uniform(0, 2 * math.pi),
        gradient=rng.uniform(-0.18, 0.18),
    )
    drawn = 2 if rng.random() < TWO_OBJECTS else 1
    colours = rng.sample(cast.colours, min(num_things or drawn, len(cast.colours)))
    things = tuple(_draw_thing(rng, colour, cast.shapes) for colour in colours)
    return Scene(background, things, start=rng.uniform(0, 200))


def _draw_thing(rng: random.Random, colour: str, shapes: tuple[Shape, ...]) -> Thing:
    radius = rng.uniform(*RADIUS)
    low, high = radius + 1, SIDE - 1 - radius
    return Thing(
        colour=colour,
        shape=rng.choice(shapes),
        motion=rng.choice(tuple(MOTIONS)),
        radius=radius,
        x=rng.uniform(low, high),
        y=rng.uniform(low, high),
        speed=rng.uniform(*SPEED),
        heading=rng.choice((-1, 1)),
        phase=rng.random(),
    )
