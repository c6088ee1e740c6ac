import pytest

from framepack.errors import InvalidRequest
from framepack.generation.orders import ORDERS, Section, endpoints, forward, inverted, planned
from framepack.generation.plan import GenerationRequest, PromptAt, plan_generation
from framepack.packing.schedule import parse_schedule

ENDPOINT = parse_schedule(ORDERS["endpoints"].default_schedule)
PAPER = parse_schedule("td_f16k4f4k2f1k1_g9_x_f1k1")
BOTH = parse_schedule("td_f2k2f1k1_g9_f1k1f2k2_td")


def times(sections: tuple[Section, ...]) -> list[int]:
    return [(section.frames[0] - 1) // len(section.frames) for section in sections]


def test_the_ends_come_first_and_the_gap_fills_forward() -> None:
    assert times(endpoints(6, PAPER)) == [5, 0, 1, 2, 3, 4]
    assert times(endpoints(1, PAPER)) == [0]
    assert times(endpoints(2, PAPER)) == [1, 0]


def test_a_gap_closes_from_both_sides_where_context_lies_on_both() -> None:
    assert times(endpoints(8, BOTH)) == [7, 0, 1, 6, 2, 5, 3, 4]


def test_every_section_sees_the_endpoint_at_its_true_place() -> None:
    last, first, *between = endpoints(4, PAPER)
    assert last.frames == tuple(range(28, 37))
    assert [level.frames for level in first.context][-1] == (28,)
    for section in (last, first, *between):
        assert section.positions == section.frames
        assert all(level.positions == level.frames for level in section.context)
    touching = between[-1]
    assert touching.frames[-1] + 1 == 28 == touching.context[-1].frames[0], "a skip of none"
    assert last.context[-1].frames == (37,), "nothing is known after the end: zeros"


def test_the_start_picture_is_seen_beyond_the_skip() -> None:
    for section in endpoints(5, ENDPOINT):
        assert (0,) in [level.frames for level in section.context]


def test_planned_makes_one_endpoint_a_prompt_from_the_last_to_the_first() -> None:
    sections = planned(9, ENDPOINT, (0, 3, 6))
    assert times(sections) == [8, 5, 2, 0, 1, 3, 4, 6, 7]
    assert [section.prompt for section in sections] == [2, 1, 0, 0, 0, 1, 1, 2, 2]
    seen = {
        time: s.context[-1].frames[0] for time, s in zip(times(sections), sections, strict=True)
    }
    assert seen == {8: 82, 5: 73, 2: 46, 0: 19, 1: 19, 3: 46, 4: 46, 6: 73, 7: 73}


def test_planned_with_one_prompt_is_endpoints() -> None:
    for count in range(1, 12):
        assert planned(count, ENDPOINT) == endpoints(count, ENDPOINT)


@pytest.mark.parametrize(
    "name", ["td_f16k4f2k2f1k1_g9", "f1k1_x_g9_f1k1f2k2f16k4_td", "f1k1_x_g9_x_f1k1"]
)
def test_a_schedule_without_both_sides_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="both sides"):
        endpoints(3, parse_schedule(name))


@pytest.mark.parametrize(
    ("order", "name"),
    [
        ("forward", "f1k1_x_f2k2_x_td_f1k1_g9"),
        ("inverted", "f1k1_x_f1k1_x_g9_f1k1_td"),
        ("endpoints", "f1k1_x_td_f1k1_g9_f1k1_x_f2k1_x_f1k1"),
    ],
)
def test_a_pack_that_stands_nowhere_is_refused(order: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match="leave it out"):
        ORDERS[order].sections(3, parse_schedule(name))


def test_the_other_orders_tell_prompts_by_position() -> None:
    pack = parse_schedule(ORDERS["inverted"].default_schedule)
    assert [s.prompt for s in inverted(4, pack, (0, 1, 3))] == [2, 1, 1, 0]
    pack = parse_schedule(ORDERS["forward"].default_schedule)
    assert [s.prompt for s in forward(4, pack, (0, 1, 3))] == [0, 1, 1, 2]


def request(*later: PromptAt, order: str = "planned") -> GenerationRequest:
    return GenerationRequest("a", seconds=10, order=order, later_prompts=later)


def test_a_request_names_prompts_by_seconds() -> None:
    plan = plan_generation(request(PromptAt(3.7, "b"), PromptAt(8.4, "c")), (64, 64))
    assert plan.prompts == ("a", "b", "c")
    told = {(s.frames[0] - 1) // 9: s.prompt for s in plan.sections}
    assert [told[time] for time in range(8)] == [0, 0, 0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("seconds", [[0.5], [3.0, 3.1], [5.0, 2.0], [9.9], [-4.0]])
def test_prompts_that_no_section_would_be_told_are_refused(seconds: list[float]) -> None:
    later = [PromptAt(moment, "b") for moment in seconds]
    with pytest.raises(InvalidRequest) as caught:
        plan_generation(request(*later), (64, 64))
    assert caught.value.field == "later_prompts"


def test_a_video_of_one_section_says_that_it_has_no_room_for_another_prompt() -> None:
    short = GenerationRequest("a", seconds=1, later_prompts=(PromptAt(0.5, "b"),))
    with pytest.raises(InvalidRequest, match="no section is left for a prompt at"):
        plan_generation(short, (64, 64))
