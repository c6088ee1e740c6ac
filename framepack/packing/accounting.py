"""How long a packed context is, exactly and in the limit (section 3.1; torch-free).

Two units. *Tokens* are what the transformer sees, with the padding each level needs. *Frames'
worth* is the same before padding, in units of one frame's tokens at ``k1`` (the paper's L_f), as an
exact fraction; the paper's bounds are statements about these.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from framepack.packing.schedule import BASE_KERNEL, Kernel, Level, PackingSchedule, Tail, TailKind

TAIL_POOL = Kernel(1, 32, 32)
"""What an appended tail frame is averaged over: at 480p a handful of latent pixels remain."""


def worth(kernel: Kernel) -> Fraction:
    """One frame's share of a token grid under a kernel, in frames' worth; 1 for ``k1``."""
    return Fraction(BASE_KERNEL.volume, kernel.volume)


def context_worth(schedule: PackingSchedule) -> Fraction:
    """Length of the packed context in frames' worth, before padding and without a tail."""
    return sum((level.frames * worth(level.kernel) for level in schedule.levels), Fraction(0))


def geometric_bound(ratio: int, window: int) -> Fraction:
    """The limit S + ratio/(ratio - 1) of context and target together, in frames' worth.

    The paper prints it without the factor L_f, which every term of its sum carries.
    """
    return window + Fraction(ratio, ratio - 1)


def tail_kind(schedule: PackingSchedule) -> TailKind:
    """What a schedule does with frames beyond its packs; a name without a tail deletes them."""
    tails = [e for e in (*schedule.earlier, *schedule.later) if isinstance(e, Tail)]
    return tails[0].kind if tails else "delete"


def tail_kernel(schedule: PackingSchedule) -> Kernel:
    """The kernel that turns a pooled tail into tokens.

    The paper says "the nearest kernel". Read as nearest in time, it is the coarsest level's, the
    neighbour of the tail; that also keeps growth lowest, and no schedule needs a kernel for its
    tail alone.
    """
    return max((level.kernel for level in schedule.levels), key=lambda kernel: kernel.volume)


def tail_tokens(schedule: PackingSchedule, frames: int, height: int, width: int) -> int:
    """Tokens of a tail of ``frames`` latent frames on a latent grid of ``height`` x ``width``.

    None when deleted or empty, one when compressed, and linear in ``frames`` when appended: only
    then is the context not bounded.
    """
    kind = tail_kind(schedule)
    if frames <= 0 or kind == "delete":
        return 0
    if kind == "compress":
        return 1
    pooled = ceil(height / TAIL_POOL.h), ceil(width / TAIL_POOL.w)
    return Level(frames, tail_kernel(schedule)).tokens(*pooled)


def tail_frames(schedule: PackingSchedule, history: int) -> int:
    """How many of ``history`` latent frames lie beyond the packs."""
    return max(0, history - sum(level.frames for level in schedule.levels))


def tokens_at(schedule: PackingSchedule, history: int, height: int, width: int) -> int:
    """Context tokens after ``history`` latent frames.

    A schedule's levels cost the same from the first section on, because absent frames are zeros
    and not fewer tokens.
    """
    beyond = tail_tokens(schedule, tail_frames(schedule, history), height, width)
    return schedule.context_tokens(height, width) + beyond


def full_context_tokens(history: int, height: int, width: int) -> int:
    """Tokens of ``history`` latent frames without packing: all of them at ``k1``."""
    return Level(history, BASE_KERNEL).tokens(height, width) if history > 0 else 0
