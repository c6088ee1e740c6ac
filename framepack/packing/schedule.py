"""The paper's notation for packed contexts, parsed and printed (torch-free).

A name describes one section and what the model sees around it, in time order (section 4.1 of the
paper): ``td_f16k4f2k2f1k1_g9`` drops older frames, packs 16 latent frames with the (4,8,8) kernel,
2 with (2,4,4), 1 with (1,2,2), and generates 9. ``x`` skips any number of frames, so
``f1k1_x_g9_f1k1f2k2f16k4_td`` is the released inverted model: the first frame, a gap, 9 generated
frames, then context on the *later* side.

Grammar (elements joined by ``_``)::

    name    = { element "_" } generate { "_" element } [ "+D" ]
    element = tail | pack | "x"
    tail    = "td" | "ta" | "tc"                       delete, append, compress
    pack    = { "f" N kernel }
    kernel  = "k" N | "k" N "h" N "w" N                kN means (N, 2N, 2N)
    generate = "g" N

A tail is the far end of a pack, so on the earlier side it comes first or after an ``x``, on the
later side last or before an ``x``. An ``x`` always has a pack on its far side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod
from typing import Literal, NamedTuple

from framepack.errors import ScheduleSyntaxError

TailKind = Literal["delete", "append", "compress"]

_TAILS: dict[str, TailKind] = {"td": "delete", "ta": "append", "tc": "compress"}
_TAIL_NAMES = {kind: name for name, kind in _TAILS.items()}


class Kernel(NamedTuple):
    """Patchify kernel in latent units; its stride equals its size."""

    t: int
    h: int
    w: int

    def __str__(self) -> str:
        short = self.h == self.w == 2 * self.t
        return f"k{self.t}" if short else f"k{self.t}h{self.h}w{self.w}"

    @property
    def volume(self) -> int:
        """Latent pixels that become one token."""
        return prod(self)


BASE_KERNEL = Kernel(1, 2, 2)
"""The kernel of generated frames, and of the finest context level (``k1``)."""

LARGEST_PROJECTED = Kernel(8, 16, 16)
"""What a projection reaches; a larger kernel averages first (section 3.1)."""


def pooled_first(kernel: Kernel) -> tuple[Kernel, Kernel]:
    """Split a kernel into what is averaged first and what is projected: k16 into (2,2,2) and k8.

    Raises:
        ValueError: A side beyond `LARGEST_PROJECTED` is no multiple of it.
    """
    pool = [max(1, -(-k // most)) for k, most in zip(kernel, LARGEST_PROJECTED, strict=True)]
    if any(k % p for k, p in zip(kernel, pool, strict=True)):
        raise ValueError(f"kernel {kernel} cannot be averaged down to {LARGEST_PROJECTED}")
    return Kernel(*pool), Kernel(*(k // p for k, p in zip(kernel, pool, strict=True)))


def has_projection(kernel: Kernel) -> bool:
    """Whether a kernel's projection can be interpolated from that of `BASE_KERNEL`."""
    try:
        _, projected = pooled_first(kernel)
    except ValueError:
        return False
    return not any(k % base for k, base in zip(projected, BASE_KERNEL, strict=True))


@dataclass(frozen=True)
class Level:
    """Consecutive latent frames that share a patchify kernel."""

    frames: int
    kernel: Kernel

    def __str__(self) -> str:
        return f"f{self.frames}{self.kernel}"

    def tokens(self, height: int, width: int) -> int:
        """Tokens of this level on a latent grid of ``height`` x ``width``, padding included."""
        k = self.kernel
        return ceil(self.frames / k.t) * ceil(height / k.h) * ceil(width / k.w)


@dataclass(frozen=True)
class Pack:
    """A run of levels that are contiguous in time."""

    levels: tuple[Level, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.levels))

    @property
    def frames(self) -> int:
        """Latent frames of the whole run."""
        return sum(level.frames for level in self.levels)


@dataclass(frozen=True)
class Tail:
    """What happens to frames beyond the far end of a pack."""

    kind: TailKind

    def __str__(self) -> str:
        return _TAIL_NAMES[self.kind]


@dataclass(frozen=True)
class Skip:
    """Any number of frames that are not seen, zero included."""

    def __str__(self) -> str:
        return "x"


Element = Pack | Tail | Skip


@dataclass(frozen=True)
class PackingSchedule:
    """One section and its context, in time order.

    Attributes:
        earlier: Elements before the generated frames, oldest first.
        window: Latent frames generated.
        later: Elements after the generated frames, oldest first.
        discretised: Whether history is replaced by codebook entries (``+D``).
    """

    earlier: tuple[Element, ...]
    window: int
    later: tuple[Element, ...]
    discretised: bool = False

    def __str__(self) -> str:
        parts = [*map(str, self.earlier), f"g{self.window}", *map(str, self.later)]
        return "_".join(parts) + ("+D" if self.discretised else "")

    @cached_property
    def earlier_pack(self) -> Pack | None:
        """The pack that touches the generated frames on the earlier side."""
        return _touching(self.earlier[::-1])

    @cached_property
    def later_pack(self) -> Pack | None:
        """The pack that touches the generated frames on the later side."""
        return _touching(self.later)

    @cached_property
    def start_anchor(self) -> Pack | None:
        """The pack at the start of the video, beyond a skip."""
        return _anchor(self.earlier)

    @cached_property
    def end_anchor(self) -> Pack | None:
        """The pack at the end of the video, beyond a skip."""
        return _anchor(self.later[::-1])

    @property
    def packs(self) -> tuple[Pack, ...]:
        """All packs, oldest first."""
        return tuple(e for e in (*self.earlier, *self.later) if isinstance(e, Pack))

    @property
    def levels(self) -> tuple[Level, ...]:
        """All context levels, oldest first."""
        return tuple(level for pack in self.packs for level in pack.levels)

    def context_tokens(self, height: int, width: int) -> int:
        """Tokens of the packed history on a latent grid of ``height`` x ``width``."""
        return sum(level.tokens(height, width) for level in self.levels)

    def target_tokens(self, height: int, width: int) -> int:
        """Tokens of the generated frames on a latent grid of ``height`` x ``width``."""
        return Level(self.window, BASE_KERNEL).tokens(height, width)

    def with_window(self, window: int) -> PackingSchedule:
        """The same context around another number of generated frames."""
        return replace(self, window=window)


def _touching(outward: tuple[Element, ...]) -> Pack | None:
    """The first element going outward from the generated frames, if it is a pack."""
    return outward[0] if outward and isinstance(outward[0], Pack) else None


def _anchor(inward: tuple[Element, ...]) -> Pack | None:
    """The outermost pack, if a skip separates it from the generated frames."""
    packs = [e for e in inward if isinstance(e, Pack)]
    return packs[0] if packs and any(isinstance(e, Skip) for e in inward) else None


def parse_schedule(name: str) -> PackingSchedule:
    """Parse a schedule's name; ``str()`` of the result is the canonical name.

    Raises:
        ScheduleSyntaxError: Points at the first character that cannot stand where it does.
    """
    return _Parser(name).schedule()


class _Parser:
    """Recursive descent over one name; ``self.at`` is the next character."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.at = 0

    def schedule(self) -> PackingSchedule:
        earlier: list[Element] = []
        while not self.name.startswith("g", self.at):
            earlier.append(self.element(earlier, "generated frames (gN)"))
            self.expect("_", "'_'")
        self.at += 1
        window = self.number("a number of generated frames")
        later: list[Element] = []
        while self.take("_"):
            later.append(self.element_after(later))
        if later and isinstance(later[-1], Skip):
            self.fail("'_' and a pack (fNkM) after the skip")
        discretised = self.take("+D") or self.take("+d")
        if self.at < len(self.name):
            self.fail("'_', '+D' or the end" if not discretised else "the end")
        return PackingSchedule(tuple(earlier), window, tuple(later), discretised)

    def element(self, before: list[Element], also: str) -> Element:
        """One element on the earlier side."""
        previous = before[-1] if before else None
        tail_fits = (previous is None or isinstance(previous, Skip)) and not _has_tail(before)
        pack_fits = not isinstance(previous, Pack)
        return self.one_of(tail_fits, pack_fits, isinstance(previous, Pack), also)

    def element_after(self, after: list[Element]) -> Element:
        """One element on the later side."""
        previous = after[-1] if after else None
        pack_fits = previous is None or isinstance(previous, Skip)
        tail_fits = isinstance(previous, Pack) and not _has_tail(after)
        skip_fits = not isinstance(previous, Skip)
        return self.one_of(tail_fits, pack_fits, skip_fits, "")

    def one_of(self, tail: bool, pack: bool, skip: bool, also: str) -> Element:
        start = self.at
        two = self.name[start : start + 2]
        if tail and two in _TAILS:
            self.at += 2
            return Tail(_TAILS[two])
        if skip and two[:1] == "x":
            self.at += 1
            return Skip()
        if pack and two[:1] == "f":
            return self.pack()
        choices = [
            *(["a tail (td, ta, tc)"] if tail else []),
            *(["a pack (fNkM)"] if pack else []),
            *(["a skip (x)"] if skip else []),
            *([also] if also else []),
        ]
        return self.fail(" or ".join(choices))

    def pack(self) -> Pack:
        levels = []
        while self.take("f"):
            frames = self.number("a number of latent frames")
            self.expect("k", "a kernel (kN or kNhNwN)")
            levels.append(Level(frames, self.kernel()))
        return Pack(tuple(levels))

    def kernel(self) -> Kernel:
        t = self.number("a kernel size")
        if not self.take("h"):
            return Kernel(t, 2 * t, 2 * t)
        h = self.number("a kernel height")
        self.expect("w", "'w' and a kernel width")
        return Kernel(t, h, self.number("a kernel width"))

    def number(self, what: str) -> int:
        start = self.at
        while self.at < len(self.name) and self.name[self.at] in "0123456789":
            self.at += 1
        digits = self.name[start : self.at]
        if not digits or digits[0] == "0" or len(digits) > 5:
            self.at = start
            self.fail(f"{what} from 1 to 99999")
        return int(digits)

    def take(self, text: str) -> bool:
        found = self.name.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def expect(self, text: str, expected: str) -> None:
        if not self.take(text):
            self.fail(expected)

    def fail(self, expected: str) -> Element:
        raise ScheduleSyntaxError(self.name, self.at, expected)


def _has_tail(elements: list[Element]) -> bool:
    return any(isinstance(e, Tail) for e in elements)
