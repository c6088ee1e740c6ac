"""Aligned delivery: the codec's windows, each decoded once, as soon as its latents exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from framepack.generation.plan import Plan
from framepack.models.codec import SectionCodec, WindowGrid

LatentsOf = Callable[[Sequence[int]], Float[Tensor, "1 c n h w"]]
"""Gives the latents of latent frame numbers."""

Pixels = Float[Tensor, "1 3 _ height width"]
"""Pixels of about -1 to 1; the number of frames differs from one argument to the next."""


class Piece(NamedTuple):
    """Frames that one window makes alone, or fading in from the window before it."""

    window: int
    fading: bool
    frames: range


class AlignedWindows:
    """`framepack.generation.stitch.Delivery` equal to decoding the whole video at once."""

    def __init__(self, codec: SectionCodec, plan: Plan) -> None:
        self._codec = codec
        self._plan = plan
        self._grid = codec.tiling.grid(plan.shown_latents)
        self._made_at = {f: s.index for s in plan.sections for f in s.frames} | {0: -1}
        self._open: dict[int, Pixels] = {}

    @staticmethod
    def check(plan: Plan) -> None:
        """See `Delivery`. Any order will do."""

    def run(self, index: int) -> range:
        """See `Delivery`."""
        pieces = self._pieces(index)
        if not pieces:
            return range(0)
        return range(pieces[0].frames.start, pieces[-1].frames.stop)

    def latents_needed(self, index: int) -> Sequence[int]:
        """See `Delivery`."""
        windows = {w for piece in self._pieces(index) for w in _sources(piece)}
        return sorted({frame for w in windows for frame in self._grid.latents(w)})

    def pixels(self, index: int, latents_of: LatentsOf) -> Pixels:
        """See `Delivery`. Remembers the windows at the edges of what is known, no others."""
        pieces = self._pieces(index)
        if not pieces:
            return _no_pixels(self._plan)
        decoded: dict[int, Pixels] = {}
        for window in sorted({w for piece in pieces for w in _sources(piece)}):
            if window in self._open:
                decoded[window] = self._open[window]
            else:
                decoded[window] = decode_window(self._codec, self._grid, window, latents_of)
        self._open = {w: p for w, p in decoded.items() if self._at_edge(w, index)}
        return torch.cat([assemble(self._grid, piece, decoded) for piece in pieces], dim=2)

    def _pieces(self, index: int) -> list[Piece]:
        """What becomes final with a section, by time: windows' bodies and seams between them."""
        frames = self._plan.sections[index].frames
        new = {w for f in frames for w in self._grid.containing(f) if self._known(w, index)}
        seams = {w for n in new for w in (n, n + 1) if self._has_seam(w, index)}
        bodies = [Piece(w, False, self._grid.body(w)) for w in new]
        fades = [Piece(w, True, self._grid.seam(w)) for w in seams]
        pieces = sorted((p for p in (*bodies, *fades) if p.frames), key=lambda p: p.frames.start)
        if any(a.frames.stop != b.frames.start for a, b in pairwise(pieces)):
            raise ValueError(f"section {index} finishes frames in several places: {pieces}")
        return pieces

    def _known(self, window: int, index: int) -> bool:
        """Whether all latents of a window exist once section ``index`` is committed."""
        return all(self._made_at[frame] <= index for frame in self._grid.latents(window))

    def _has_seam(self, window: int, index: int) -> bool:
        inside = 0 < window < self._grid.num_windows
        return inside and self._known(window, index) and self._known(window - 1, index)

    def _at_edge(self, window: int, index: int) -> bool:
        neighbours = {window - 1, window + 1} & set(range(self._grid.num_windows))
        return not all(self._known(neighbour, index) for neighbour in neighbours)


def decode_whole(codec: SectionCodec, latents: Float[Tensor, "1 c t h w"]) -> Pixels:
    """Decode a run of latent frames in windows counted from its own first frame."""
    grid = codec.tiling.grid(range(latents.shape[2]))
    decoded = {}

    def pieces() -> Iterator[Pixels]:
        for window in range(grid.num_windows):
            decoded[window] = decode_window(codec, grid, window, lambda n: latents[:, :, list(n)])
            if window > 0:
                yield assemble(grid, Piece(window, True, grid.seam(window)), decoded)
                del decoded[window - 1]
            yield assemble(grid, Piece(window, False, grid.body(window)), decoded)

    return torch.cat(list(pieces()), dim=2)


def decode_window(
    codec: SectionCodec, grid: WindowGrid, window: int, latents_of: LatentsOf
) -> Pixels:
    """The pixel frames of a window, its given-away first one left out."""
    pixels = codec.decode_window(latents_of(grid.latents(window)))
    return pixels[:, :, -len(grid.frames(window)) :]


def assemble(grid: WindowGrid, piece: Piece, decoded: dict[int, Pixels]) -> Pixels:
    """The pixels of a piece from its decoded windows.

    A fade's first frame is all of the earlier window, its last one nearly all of the later.
    """
    window = decoded[piece.window]
    start = piece.frames.start - grid.frames(piece.window).start
    pixels = window[:, :, start : start + len(piece.frames)]
    if not piece.fading:
        return pixels
    extent = len(piece.frames)
    before = decoded[piece.window - 1][:, :, -extent:]
    # Frame by frame with Python floats: tensor weights would be rounded to the pixels' dtype.
    fades = [
        before[:, :, n] * (1 - n / extent) + pixels[:, :, n] * (n / extent) for n in range(extent)
    ]
    return torch.stack(fades, dim=2)


def _sources(piece: Piece) -> tuple[int, ...]:
    return (piece.window - 1, piece.window) if piece.fading else (piece.window,)


def _no_pixels(plan: Plan) -> Pixels:
    return torch.empty(1, 3, 0, plan.height, plan.width)
