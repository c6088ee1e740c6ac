"""Whatever is in ORDERS keeps these; a new order is picked up by itself."""

from types import SimpleNamespace
from typing import cast

import pytest

from framepack.generation.history import sections_needed
from framepack.generation.orders import ORDERS, Section, without_picture
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.generation.windows import AlignedWindows
from framepack.models.codec import SectionCodec, Tiling
from framepack.packing.schedule import parse_schedule

COUNTS = (1, 2, 3, 4, 5, 8, 13)
BEGINNINGS = [
    *((name, True) for name in ORDERS),
    *((name, False) for name, order in ORDERS.items() if not order.needs_picture),
]
"""Orders, with a start picture and, where they can, without."""


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sections_of(order: str, count: int, starts: tuple[int, ...] = (0,)) -> tuple[Section, ...]:
    return ORDERS[order].sections(count, parse_schedule(ORDERS[order].default_schedule), starts)


@pytest.mark.parametrize("count", COUNTS)
def test_every_frame_is_made_once(order: str, count: int) -> None:
    sections = sections_of(order, count)
    assert [section.index for section in sections] == list(range(count))
    assert sorted(f for s in sections for f in s.frames) == list(range(1, 9 * count + 1))
    assert all(s.frames == tuple(range(s.frames[0], s.frames[0] + 9)) for s in sections)


@pytest.mark.parametrize("count", COUNTS)
def test_context_has_the_schedules_tokens_in_every_section(order: str, count: int) -> None:
    schedule = parse_schedule(ORDERS[order].default_schedule)
    expected = sorted((level.kernel, level.frames) for level in schedule.levels)
    for section in sections_of(order, count):
        assert sorted((lv.kernel, len(lv.frames)) for lv in section.context) == expected
        volumes = [level.kernel.volume for level in section.context]
        assert volumes == sorted(volumes, reverse=True)
        for level in section.context:
            assert len(level.positions) == len(level.frames)
            assert list(level.frames) == sorted(set(level.frames))
            assert set(level.frames).isdisjoint(section.frames)


@pytest.mark.parametrize("count", COUNTS)
def test_everything_after_the_first_section_sees_what_was_made(order: str, count: int) -> None:
    sections = sections_of(order, count)
    for section in sections[1:]:
        assert sections_needed(section, sections)


def test_prompts_hold_by_time(order: str) -> None:
    told = {s.frames[0] // 9: s.prompt for s in sections_of(order, 8, (0, 2, 5))}
    assert [told[time] for time in range(8)] == [0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("seconds", [1.2, 2.4, 6.0, 15.6])
@pytest.mark.parametrize("tiling", [Tiling(5, 3, 4, 4), Tiling(3, 2, 2, 4)])
@pytest.mark.parametrize(("order", "pictured"), BEGINNINGS)
def test_each_section_delivers_one_run_and_the_runs_are_the_video(
    order: str, seconds: float, tiling: Tiling, pictured: bool
) -> None:
    request = GenerationRequest("p", seconds=seconds, order=order)
    plan = plan_generation(request, (64, 64) if pictured else None)
    codec = cast(SectionCodec, SimpleNamespace(tiling=tiling))
    windows = AlignedWindows(codec, plan)
    runs = [windows.run(section.index) for section in plan.sections]
    assert sorted(f for run in runs for f in run) == list(range(plan.num_pixel_frames))


@pytest.mark.parametrize("count", COUNTS)
def test_without_a_picture_there_is_no_frame_0(order: str, count: int) -> None:
    """Same sections, same positions; what was anchored at the picture sees the video's first."""
    with_one = sections_of(order, count)
    for section, plain in zip(with_one, without_picture(with_one), strict=True):
        assert (plain.frames, plain.positions) == (section.frames, section.positions)
        seen = [(lv.kernel, lv.positions, lv.role) for lv in plain.context]
        assert seen == [(lv.kernel, lv.positions, lv.role) for lv in section.context]
        anchored = [f for lv in plain.context if lv.role == "anchor" for f in lv.frames]
        assert 0 not in anchored
