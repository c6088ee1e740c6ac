"""In which order the sections of a video are made, and what each one sees (torch-free).

An order turns a number of sections and a packing schedule into a tuple of `Section`. Everything is
stated in latent frame numbers of the finished video: frame 0 is the start picture, section s (by
time) owns frames ``1 + s*w .. (s+1)*w``. Without a start picture there is no frame 0, see
`without_picture`. A context frame that does not exist (yet) is a frame of zeros: the released
models were trained to see zeros where nothing is known, never fewer tokens.

RoPE positions are the model's own and not always truthful: see `inverted` and `forward`. The orders
without a released model (`endpoints`, `planned`) are truthful: a frame's position is its number.

Prompts have positions too: ``prompt_starts`` names, for each prompt, the first section (by time)
that is told it, ascending from 0. Every order honours them; `planned` also plans by them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from framepack.errors import InvalidRequest
from framepack.packing.accounting import tail_kernel
from framepack.packing.schedule import Element, Kernel, Pack, PackingSchedule, Tail

Role = Literal["pack", "anchor", "append", "compress"]


@dataclass(frozen=True)
class ContextLevel:
    """One run of history frames that share a kernel.

    Attributes:
        kernel: Patchify kernel of the run.
        frames: Latent frame numbers in the video, ascending; consecutive unless ranked by
            similarity. Numbers outside the video, or of frames not generated yet, stand for zeros.
        positions: RoPE positions on the time axis, one for each frame.
        role: A pack's frames may be chosen by importance, an anchor's never. ``append`` and
            ``compress`` are tails: all frames that exist beyond the packs.
    """

    kernel: Kernel
    frames: tuple[int, ...]
    positions: tuple[int, ...]
    role: Role = "pack"


@dataclass(frozen=True)
class Section:
    """One section: what to generate and what to see.

    Attributes:
        index: Its place in the order of sampling, from 0.
        frames: Latent frame numbers in the video that it generates, ascending.
        positions: RoPE positions of those frames.
        context: Levels in the order of their tokens: coarsest kernel first, then by time.
        prompt: Index of its prompt.
        candidates: Frames to choose those of the packs from, when they are ranked by more than
            time; empty where ``context`` stands as it is.
        restart: Frames whose last picture the section begins anew from, as its frame 0; empty where
            history goes on.
    """

    index: int
    frames: tuple[int, ...]
    positions: tuple[int, ...]
    context: tuple[ContextLevel, ...]
    prompt: int = 0
    candidates: tuple[int, ...] = ()
    restart: tuple[int, ...] = ()


@runtime_checkable
class MakeSections(Protocol):
    """An order: the sections of a video in the order of sampling."""

    def __call__(
        self,
        num_sections: int,
        schedule: PackingSchedule,
        prompt_starts: Sequence[int] = (0,),
    ) -> tuple[Section, ...]:
        """Raises InvalidRequest for a schedule whose context this order cannot fill."""
        ...


@dataclass(frozen=True)
class Order:
    """A sampling order and the schedule it was made for.

    Attributes:
        sections: ``sections(num_sections, schedule, prompt_starts)``.
        default_schedule: The schedule of the released model, or the paper's.
        needs_picture: Why it cannot go without a start picture; empty where it can.
    """

    sections: MakeSections
    default_schedule: str
    needs_picture: str = ""


def inverted_paddings(num_sections: int) -> list[int]:
    """Blank sections between the start frame and each generated section, in order of generation.

    The plain countdown up to four sections; beyond, 3, then 2 as often as needed, then 1, 0. The
    official code calls it a trick that works better than the truthful distance.
    """
    if num_sections <= 4:
        return list(range(num_sections - 1, -1, -1))
    return [3, *[2] * (num_sections - 3), 1, 0]


def inverted(
    num_sections: int, schedule: PackingSchedule, prompt_starts: Sequence[int] = (0,)
) -> tuple[Section, ...]:
    """Last section first, towards the start picture (Figure 2c; the released FramePackI2V_HY).

    Positions: anchor, ``padding`` blank sections, target, then the later context, consecutively.
    """
    if schedule.earlier_pack is not None or schedule.later_pack is None:
        raise InvalidRequest(
            "schedule",
            f"the inverted order needs its context after the generated frames, which {schedule} "
            "has not; use a schedule like f1k1_x_g9_f1k1f2k2f16k4_td or another order",
        )
    window, anchor = schedule.window, _anchor_levels(schedule)
    _check_places(schedule)
    sections = []
    for index, padding in enumerate(inverted_paddings(num_sections)):
        first = 1 + window * (num_sections - 1 - index)
        position = max(1, _num_frames(anchor)) + window * padding
        later = _run(schedule.later_pack, first + window, position + window)
        beyond = range(first + window + schedule.later_pack.frames, 1 + window * num_sections)
        tail = _tail(schedule, schedule.later, beyond, position - first)
        sections.append(
            Section(
                index=index,
                frames=tuple(range(first, first + window)),
                positions=tuple(range(position, position + window)),
                context=token_order([*anchor, *later, *tail]),
                prompt=prompt_at(num_sections - 1 - index, prompt_starts),
            )
        )
    return tuple(sections)


def forward(
    num_sections: int, schedule: PackingSchedule, prompt_starts: Sequence[int] = (0,)
) -> tuple[Section, ...]:
    """First section first (the paper's vanilla order; with a start anchor the released F1 model).

    Positions are the same for every section: anchor at 0, earlier context from 1, then the target.
    """
    if schedule.later_pack is not None or schedule.earlier_pack is None:
        raise InvalidRequest(
            "schedule",
            f"the forward order needs its context before the generated frames, which {schedule} "
            "has not; use a schedule like f1k1_x_td_f16k4f2k2f1k1_g9 or another order",
        )
    window, anchor, pack = schedule.window, _anchor_levels(schedule), schedule.earlier_pack
    _check_places(schedule)
    position = max(1, _num_frames(anchor))
    target = position + pack.frames
    sections = []
    for index in range(num_sections):
        first = 1 + window * index
        earlier = _run(pack, first - pack.frames, position)
        tail = _tail(schedule, schedule.earlier, range(first - pack.frames), target - first)
        sections.append(
            Section(
                index=index,
                frames=tuple(range(first, first + window)),
                positions=tuple(range(target, target + window)),
                context=token_order([*anchor, *earlier, *tail]),
                prompt=prompt_at(index, prompt_starts),
            )
        )
    return tuple(sections)


def repeating(
    num_sections: int, schedule: PackingSchedule, prompt_starts: Sequence[int] = (0,)
) -> tuple[Section, ...]:
    """Image-to-video again and again, each time from the last picture (Table 2; no memory).

    Every section is laid out as the first one of `forward`, see `framepack.generation.restart`.
    """
    sections = forward(num_sections, schedule, prompt_starts)
    return tuple(
        replace(
            section,
            context=sections[0].context,
            restart=() if section.index == 0 else sections[section.index - 1].frames,
        )
        for section in sections
    )


def endpoints(
    num_sections: int, schedule: PackingSchedule, prompt_starts: Sequence[int] = (0,)
) -> tuple[Section, ...]:
    """The last section, the first, then everything between (Figure 2b).

    The paper makes the first two in one go. Here they are two sections, the last one first: the
    beginning then sees the ending, which loses nothing, as p(first, last) is p(last) times
    p(first given last), and every section keeps one size, one checkpoint and one delivered run.
    """
    return _anchored(num_sections, schedule, [num_sections - 1], prompt_starts)


def planned(
    num_sections: int, schedule: PackingSchedule, prompt_starts: Sequence[int] = (0,)
) -> tuple[Section, ...]:
    """The last section of every prompt, then the first, then the gaps (Figure 2d).

    Endpoints are made from the last to the first, so that each sees the one after it, as the
    sections of the gaps will. With one prompt this is `endpoints`.
    """
    ends = [start - 1 for start in prompt_starts[1:]] + [num_sections - 1]
    return _anchored(num_sections, schedule, ends, prompt_starts)


def _anchored(
    num_sections: int, schedule: PackingSchedule, ends: list[int], prompt_starts: Sequence[int]
) -> tuple[Section, ...]:
    """Sections at ``ends`` (by time) from the last to the first, then section 0, then the gaps."""
    if schedule.earlier_pack is None or (schedule.later_pack or schedule.end_anchor) is None:
        raise InvalidRequest(
            "schedule",
            f"this order sees context on both sides of the generated frames, which {schedule} has "
            "not; use a schedule like f1k1_x_td_f16k4f2k2f1k1_g9_x_f1k1 or another order",
        )
    _check_places(schedule)
    times = list(dict.fromkeys([*reversed(ends), 0]))
    for before, after in zip([0, *ends[:-1]], ends, strict=True):
        times += _filling(range(before + 1, after), both_sides=schedule.later_pack is not None)
    made: set[int] = set()
    sections = []
    for index, time in enumerate(times):
        following = min((other for other in made if other > time), default=num_sections)
        first = 1 + schedule.window * time
        frames = tuple(range(first, first + schedule.window))
        levels = _both_sides(schedule, first, 1 + schedule.window * following)
        known = {
            0,
            *(1 + schedule.window * other + n for other in made for n in range(len(frames))),
        }
        levels += _both_tails(schedule, first, sorted(known))
        context = token_order(levels)
        sections.append(Section(index, frames, frames, context, prompt_at(time, prompt_starts)))
        made.add(time)
    return tuple(sections)


def _filling(gap: range, *, both_sides: bool) -> Iterator[int]:
    """The sections of a gap, so that each touches what it sees most of.

    A schedule with context on both sides lets a gap close from both; one that sees only an endpoint
    beyond a skip has its history before it, and must go forward in time.
    """
    early, late = iter(gap), reversed(gap)
    for step in range(len(gap)):
        yield next(late) if both_sides and step % 2 else next(early)


def _both_sides(schedule: PackingSchedule, first: int, following: int) -> list[ContextLevel]:
    """All context of frames from ``first``, where the next known ones begin at ``following``.

    Positions are frame numbers. With nothing known later, ``following`` lies beyond the video, and
    the endpoint is zeros.
    """
    levels: list[ContextLevel] = []
    if schedule.start_anchor is not None:
        levels += _run(schedule.start_anchor, 0, 0, "anchor")
    if schedule.earlier_pack is not None:
        begin = first - schedule.earlier_pack.frames
        levels += _run(schedule.earlier_pack, begin, begin)
    if schedule.later_pack is not None:
        begin = first + schedule.window
        levels += _run(schedule.later_pack, begin, begin)
    if schedule.end_anchor is not None:
        levels += _run(schedule.end_anchor, following, following, "anchor")
    return levels


def _both_tails(
    schedule: PackingSchedule, first: int, known: Sequence[int]
) -> Iterator[ContextLevel]:
    """The tails of `_both_sides`, of the frames that are known, at their numbers."""
    if schedule.earlier_pack is not None:
        begin = first - schedule.earlier_pack.frames
        yield from _tail(schedule, schedule.earlier, [n for n in known if n < begin], 0)
    if schedule.later_pack is not None:
        end = first + schedule.window + schedule.later_pack.frames
        yield from _tail(schedule, schedule.later, [n for n in known if n >= end], 0)


def _tail(
    schedule: PackingSchedule, side: Sequence[Element], beyond: Sequence[int], shift: int
) -> Iterator[ContextLevel]:
    """What one side's tail makes of the frames beyond its pack, at frame numbers plus ``shift``.

    Their positions keep the distance from the generated frames, so they may be negative, or
    coincide with an anchor's, which the released orders do not show where it is.
    """
    kinds = [element.kind for element in side if isinstance(element, Tail)]
    if not beyond or not kinds or kinds[0] == "delete":
        return
    positions = tuple(frame + shift for frame in beyond)
    yield ContextLevel(tail_kernel(schedule), tuple(beyond), positions, kinds[0])


def without_picture(sections: Sequence[Section]) -> tuple[Section, ...]:
    """The sections of a video that begins with no picture: text-to-video.

    There is no frame 0; the video begins with frame 1, which like a picture's latent frame is one
    pixel frame to the codec. So what is anchored at the start of the video sees the frames one
    later, at its usual positions: nothing until they are made, the beginning of the video from then
    on (as Helios does). A tail leaves frame 0 out, a pack sees zeros in its place.
    """
    return tuple(
        replace(section, context=tuple(_pictureless(section, section.context)))
        for section in sections
    )


def _pictureless(section: Section, levels: Iterable[ContextLevel]) -> Iterator[ContextLevel]:
    for level in levels:
        if level.role == "anchor" and level.frames[0] < section.frames[-1]:
            yield replace(level, frames=tuple(frame + 1 for frame in level.frames))
        elif level.role in ("append", "compress") and level.frames[0] == 0:
            rest = replace(level, frames=level.frames[1:], positions=level.positions[1:])
            yield from [rest] if rest.frames else []
        else:
            yield level


def with_candidates(sections: Sequence[Section], *, pictured: bool = True) -> tuple[Section, ...]:
    """Let the frames of the packs be chosen from all that is made when a section is sampled.

    An anchor's frames are seen anyway and are not among them.
    """
    made, result = {0} if pictured else set[int](), []
    for section in sections:
        anchors = {n for level in section.context if level.role == "anchor" for n in level.frames}
        result.append(replace(section, candidates=tuple(sorted(made - anchors))))
        made.update(section.frames)
    return tuple(result)


def prompt_at(time: int, prompt_starts: Sequence[int]) -> int:
    """Index of the prompt that a section (by time) is told: the latest that has started."""
    return bisect_right(prompt_starts, time) - 1


def _check_places(schedule: PackingSchedule) -> None:
    """Refuse packs between two skips, of which no name says which frames they are."""
    ends = schedule.start_anchor, schedule.earlier_pack, schedule.later_pack, schedule.end_anchor
    if len(schedule.packs) > sum(pack is not None for pack in ends):
        raise InvalidRequest(
            "schedule",
            f"{schedule} has a pack that neither touches the generated frames nor stands at an end "
            "of the video, so no frames can be told for it: leave it out",
        )


def _anchor_levels(schedule: PackingSchedule) -> list[ContextLevel]:
    if schedule.end_anchor is not None:
        raise InvalidRequest(
            "schedule",
            f"this order makes no endpoint, which {schedule} wants to see after its skip",
        )
    return list(_run(schedule.start_anchor, 0, 0, "anchor")) if schedule.start_anchor else []


def _num_frames(levels: list[ContextLevel]) -> int:
    return sum(len(level.frames) for level in levels)


def _run(pack: Pack, frame: int, position: int, role: Role = "pack") -> Iterator[ContextLevel]:
    """The levels of a pack laid out from a first frame number and a first position."""
    for level in pack.levels:
        yield ContextLevel(
            level.kernel,
            tuple(range(frame, frame + level.frames)),
            tuple(range(position, position + level.frames)),
            role,
        )
        frame += level.frames
        position += level.frames


def token_order(levels: Iterable[ContextLevel]) -> tuple[ContextLevel, ...]:
    """Levels in the order of their tokens: coarsest kernel first, then by time."""
    return tuple(sorted(levels, key=lambda level: (-level.kernel.volume, level.frames[0])))


ORDERS: dict[str, Order] = {
    "inverted": Order(
        inverted,
        "f1k1_x_g9_f1k1f2k2f16k4_td",
        needs_picture="goes from the end of the video towards a start picture",
    ),
    "forward": Order(forward, "f1k1_x_td_f16k4f2k2f1k1_g9"),
    "vanilla": Order(forward, "td_f16k4f2k2f1k1_g9"),
    "repeating": Order(
        repeating,
        "f1k1_x_td_f16k4f2k2f1k1_g9",
        needs_picture="makes image-to-video again and again",
    ),
    "endpoints": Order(endpoints, "f1k1_x_td_f16k4f2k2f1k1_g9_x_f1k1"),
    "planned": Order(planned, "f1k1_x_td_f16k4f2k2f1k1_g9_x_f1k1"),
}
"""By the name a request uses. ``forward`` is ``vanilla`` that also sees the start picture. So do
``endpoints`` and ``planned``: an ending made without the picture would be another scene's."""

TEXT_ORDER = "vanilla"
"""Without a picture, where the preset's own order needs one."""
