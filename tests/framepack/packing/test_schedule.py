"""The notation of packing schedules: every name parses back, every mistake is pointed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framepack.errors import ScheduleSyntaxError
from framepack.packing.schedule import (
    Kernel,
    Level,
    Pack,
    PackingSchedule,
    Skip,
    Tail,
    parse_schedule,
)

sizes = st.integers(1, 99_999)
kernels = st.one_of(
    st.integers(1, 20_000).map(lambda t: Kernel(t, 2 * t, 2 * t)),
    st.builds(Kernel, sizes, sizes, sizes),
)
packs = st.lists(st.builds(Level, sizes, kernels), min_size=1, max_size=4).map(
    lambda levels: Pack(tuple(levels))
)
tails = st.builds(Tail, st.sampled_from(["delete", "append", "compress"]))


@st.composite
def inward(draw: st.DrawFn) -> tuple[Pack | Tail | Skip, ...]:
    """Elements of the earlier side, oldest first; the later side is its mirror image."""
    elements: list[Pack | Tail | Skip] = []
    if draw(st.booleans()):
        elements += [draw(packs), Skip()]
    if draw(st.booleans()):
        elements += [*draw(st.lists(tails, max_size=1)), draw(packs)]
    return tuple(elements)


@st.composite
def schedules(draw: st.DrawFn) -> PackingSchedule:
    return PackingSchedule(
        earlier=draw(inward()),
        window=draw(sizes),
        later=draw(inward())[::-1],
        discretised=draw(st.booleans()),
    )


@given(schedules())
def test_names_round_trip(schedule: PackingSchedule) -> None:
    assert parse_schedule(str(schedule)) == schedule


@given(st.text(alphabet="tdacfkghwx_+D0123456789", max_size=30))
def test_any_text_parses_or_points_into_itself(text: str) -> None:
    error: ScheduleSyntaxError | None = None
    try:
        schedule = parse_schedule(text)
    except ScheduleSyntaxError as caught:
        error = caught
    if error is None:
        assert parse_schedule(str(schedule)) == schedule
    else:
        assert 0 <= error.position <= len(text)
        assert error.expected
        assert error.pointer() == f"{text}\n{' ' * error.position}^"


@pytest.mark.parametrize(
    "name",
    [
        "g9",
        "td_f16k4f2k2f1k1_g9",
        "td_f16k4f4k2f1k1_g9_x_f1k1",
        "f1k1_x_g9_f1k1f2k2f16k4_td",
        "f1k1_x_td_f16k4f2k2f1k1_g9",
        "tc_f8k8f4k4f2k2f1k1_g9+D",
        "ta_f4k1h2w4_g3",
    ],
)
def test_names_of_the_paper_print_as_they_were_written(name: str) -> None:
    assert str(parse_schedule(name)) == name


@pytest.mark.parametrize(
    ("name", "position", "expected"),
    [
        ("", 0, "a pack"),
        ("td_f16q4_g9", 6, "a kernel"),
        ("td_f16k4f2k2f1k1", 16, "'_'"),
        ("td_f16k4_g", 10, "a number"),
        ("f1k1_x_g09", 8, "a number"),
        ("td_td_g9", 3, "a pack"),
        ("f1k1_td_g9", 5, "a skip"),
        ("f1k1_x_x_g9", 7, "a pack"),
        ("g9_x", 4, "a pack"),
        ("g9_td", 3, "a pack"),
        ("g9+", 2, "'+D'"),
        ("g9+D_x", 4, "the end"),
        ("f1k1h2_g9", 6, "a kernel width"),
    ],
)
def test_mistakes_are_pointed_at(name: str, position: int, expected: str) -> None:
    with pytest.raises(ScheduleSyntaxError) as caught:
        parse_schedule(name)
    assert (caught.value.position, expected in caught.value.expected) == (position, True)


@pytest.mark.parametrize(
    ("height", "width", "context", "target"),
    [
        (416, 960, 3120 + 390 + 420, 14040),
        (608, 640, 3040 + 380 + 400, 13680),
        (512, 768, 3072 + 384 + 384, 13824),
        (704, 544, 2992 + 374 + 396, 13464),
    ],
)
def test_token_counts_of_the_released_models(
    height: int, width: int, context: int, target: int
) -> None:
    for name in ("f1k1_x_g9_f1k1f2k2f16k4_td", "f1k1_x_td_f16k4f2k2f1k1_g9"):
        schedule = parse_schedule(name)
        assert schedule.context_tokens(height // 8, width // 8) == context
        assert schedule.target_tokens(height // 8, width // 8) == target


def test_parts_by_their_place() -> None:
    schedule = parse_schedule("f1k1_x_td_f16k4f1k1_g9_x_f1k1")
    assert str(schedule.start_anchor) == "f1k1"
    assert str(schedule.earlier_pack) == "f16k4f1k1"
    assert schedule.later_pack is None
    assert str(schedule.end_anchor) == "f1k1"
    assert [str(level) for level in schedule.levels] == ["f1k1", "f16k4", "f1k1", "f1k1"]
    assert str(schedule.with_window(4)) == "f1k1_x_td_f16k4f1k1_g4_x_f1k1"
