"""The released loops, section by section, against their literal description."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framepack.errors import InvalidRequest
from framepack.generation.orders import ORDERS, ContextLevel, Section, inverted_paddings
from framepack.packing.schedule import Kernel, parse_schedule
from tests.reference import official_loops
from tests.reference.official_loops import Iteration

REFERENCES: dict[str, Callable[[int], list[Iteration]]] = {
    "inverted": official_loops.inverted,
    "forward": official_loops.forward,
}
KERNELS = {"clean": Kernel(1, 2, 2), "two": Kernel(2, 4, 4), "four": Kernel(4, 8, 8)}


def seen(levels: list[ContextLevel], existing: set[int]) -> list[tuple[int | None, int]]:
    pairs = [pair for level in levels for pair in zip(level.frames, level.positions, strict=True)]
    return [(frame if frame in existing else None, position) for frame, position in pairs]


def sections(name: str, n: int) -> tuple[Section, ...]:
    order = ORDERS[name]
    return order.sections(n, parse_schedule(order.default_schedule))


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9])
def test_equals_the_literal_loop(name: str, n: int) -> None:
    existing = {0}
    for section, expected in zip(sections(name, n), REFERENCES[name](n), strict=True):
        assert list(section.frames) == expected.made
        assert list(section.positions) == expected.target_positions
        for level_name, kernel in KERNELS.items():
            levels = [level for level in section.context if level.kernel == kernel]
            assert seen(levels, existing) == getattr(expected, level_name)
        existing |= set(section.frames)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_tokens_come_coarsest_first_then_by_time(name: str) -> None:
    for section in sections(name, 6):
        volumes = [level.kernel.volume for level in section.context]
        assert volumes == sorted(volumes, reverse=True)
        clean = [level.frames for level in section.context if level.kernel == KERNELS["clean"]]
        assert clean == sorted(clean)


def test_paddings() -> None:
    assert [inverted_paddings(n) for n in (1, 2, 3, 4, 5, 6, 8)] == [
        [0],
        [1, 0],
        [2, 1, 0],
        [3, 2, 1, 0],
        [3, 2, 2, 1, 0],
        [3, 2, 2, 2, 1, 0],
        [3, 2, 2, 2, 2, 2, 1, 0],
    ]


def test_vanilla_is_forward_without_the_start_picture() -> None:
    for plain, anchored in zip(sections("vanilla", 3), sections("forward", 3), strict=True):
        assert plain.positions == anchored.positions
        assert set(anchored.context) - set(plain.context) == {
            ContextLevel(Kernel(1, 2, 2), (0,), (0,), "anchor")
        }


@pytest.mark.parametrize(
    ("order", "schedule"),
    [("inverted", "td_f16k4f2k2f1k1_g9"), ("forward", "f1k1_x_g9_f1k1f2k2f16k4_td")],
)
def test_a_schedule_for_the_other_direction_is_refused(order: str, schedule: str) -> None:
    with pytest.raises(InvalidRequest, match="schedule"):
        ORDERS[order].sections(2, parse_schedule(schedule))
