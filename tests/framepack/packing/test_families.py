from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framepack.errors import InvalidRequest
from framepack.generation.orders import ORDERS
from framepack.packing.accounting import (
    context_worth,
    full_context_tokens,
    geometric_bound,
    tail_kernel,
    tail_tokens,
    tokens_at,
)
from framepack.packing.families import (
    FAMILIES,
    LARGEST_KERNEL,
    FamilyOptions,
    fitted_schedule,
    for_budget,
    geometric,
    named_schedule,
    spatial_kernel,
)
from framepack.packing.schedule import Kernel, parse_schedule

L_F = 1560
GRID = (60, 104)  # 480p


def test_a_rate_is_a_share_of_the_base_kernels_tokens() -> None:
    assert spatial_kernel(1) == (1, 2, 2)
    assert spatial_kernel(2) == (1, 4, 2)
    assert spatial_kernel(64) == (1, 16, 16)
    for exponent in range(9):
        assert spatial_kernel(2**exponent).volume == 4 * 2**exponent


@pytest.mark.parametrize(("ratio", "depth"), [(2, 9), (4, 5), (8, 3), (16, 3), (256, 2)])
def test_a_geometric_progression_is_its_series(ratio: int, depth: int) -> None:
    schedule = geometric(FamilyOptions(ratio=ratio, depth=depth))
    shares = [Fraction(4, level.kernel.volume) for level in schedule.levels]
    assert shares == [Fraction(1, ratio**i) for i in range(depth - 1, -1, -1)]
    bound = geometric_bound(ratio, 9)
    short = bound - context_worth(schedule) - 9
    assert short == Fraction(1, ratio ** (depth - 1) * (ratio - 1)), "what the endless tail adds"


def test_the_bound_holds_in_tokens_where_nothing_is_padded() -> None:
    """On a grid that every kernel divides, tokens are frames' worth times L_f exactly."""
    schedule = geometric(FamilyOptions(depth=7))
    frame = full_context_tokens(1, 64, 64)
    tokens = schedule.context_tokens(64, 64) + schedule.target_tokens(64, 64)
    assert tokens == (context_worth(schedule) + 9) * frame
    assert tokens < geometric_bound(2, 9) * frame


def test_a_start_anchor_breaks_the_bound_by_its_own_length() -> None:
    options = FamilyOptions(depth=6)
    anchored = FAMILIES["important_start"](options)
    assert context_worth(anchored) == context_worth(geometric(options)) + 1
    assert context_worth(anchored) + 9 > geometric_bound(2, 9)


def test_an_appended_tail_grows_for_ever_and_the_others_do_not() -> None:
    names = ("td_f16k4f2k2f1k1_g9", "ta_f16k4f2k2f1k1_g9", "tc_f16k4f2k2f1k1_g9")
    delete, append, compress = map(parse_schedule, names)
    for history in (0, 1, 19):
        counts = {tokens_at(s, history, *GRID) for s in (delete, append, compress)}
        assert counts == {delete.context_tokens(*GRID)}
    assert tokens_at(delete, 10_000, *GRID) == tokens_at(delete, 20, *GRID)
    assert tokens_at(compress, 10_000, *GRID) == tokens_at(delete, 20, *GRID) + 1
    # 60x104 pools to 2x4 latent pixels, one (4,8,8) token for each four frames.
    assert tail_kernel(append) == (4, 8, 8)
    assert tail_tokens(append, 400, *GRID) == 100
    assert tail_tokens(append, 401, *GRID) == 101


def test_families_are_the_released_and_the_papers_schedules() -> None:
    assert str(named_schedule("temporal_level_duplication")) == "td_f16k4f2k2f1k1_g9"
    assert str(named_schedule("temporal_kernel", FamilyOptions(depth=3))) == "td_f4k4f2k2f1k1_g9"
    symmetric = named_schedule("symmetric")
    assert symmetric.levels == symmetric.levels[::-1]
    assert str(named_schedule("tc_f1k1_g4")) == "tc_f1k1_g4"


def test_duplicating_a_half_and_an_eighth_adds_them() -> None:
    options = FamilyOptions(depth=5)
    doubled = FAMILIES["level_duplication"](options)
    added = context_worth(doubled) - context_worth(geometric(options))
    assert added == Fraction(1, 2) + Fraction(1, 8)


@given(st.integers(1, 400), st.integers(1, 6))
def test_a_budget_is_met_exactly_or_refused(sixteenths: int, depth: int) -> None:
    budget, options = Fraction(sixteenths, 16), FamilyOptions(depth=depth)
    if (budget * 2 ** (depth - 1)).denominator != 1:
        with pytest.raises(InvalidRequest):
            for_budget(budget, options)
        return
    schedule = for_budget(budget, options)
    assert context_worth(schedule) == budget
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("geometric", FamilyOptions(ratio=3)),
        ("geometric", FamilyOptions(ratio=1)),
        ("geometric", FamilyOptions(depth=10)),
        ("geometric", FamilyOptions(depth=0)),
        ("temporal_kernel", FamilyOptions(depth=6)),
        ("level_duplication", FamilyOptions(duplicates=(5,))),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, options: FamilyOptions) -> None:
    with pytest.raises(InvalidRequest) as caught:
        named_schedule(name, options)
    assert caught.value.field == "schedule"


def test_the_largest_kernel_is_reached_and_not_passed() -> None:
    assert named_schedule("temporal_kernel").levels[0].kernel == LARGEST_KERNEL
    assert spatial_kernel(256) == Kernel(1, 32, 32)
    with pytest.raises(InvalidRequest):
        spatial_kernel(512)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_family_is_laid_out_where_an_order_looks(name: str, order: str) -> None:
    default = parse_schedule(ORDERS[order].default_schedule)
    own = named_schedule(name)
    fitted = fitted_schedule(name, default, FamilyOptions())
    assert ORDERS[order].sections(3, fitted)
    assert parse_schedule(str(fitted)) == fitted
    assert own.earlier_pack is not None
    side = fitted.earlier_pack if default.later_pack is None else fitted.later_pack
    assert side is not None
    assert sorted(side.levels, key=str) == sorted(own.earlier_pack.levels, key=str)
    assert fitted.start_anchor == (own.start_anchor or default.start_anchor)
    assert fitted.end_anchor == default.end_anchor


def test_a_name_in_the_papers_notation_is_taken_as_it_is() -> None:
    name = "td_f4k2f1k1_g9+D"
    default = parse_schedule(ORDERS["inverted"].default_schedule)
    assert str(fitted_schedule(name, default, FamilyOptions())) == name


def test_a_family_may_be_discretised_too() -> None:
    default = parse_schedule(ORDERS["vanilla"].default_schedule)
    fitted = fitted_schedule("geometric+D", default, FamilyOptions(depth=2))
    assert str(fitted) == "td_f1k1h4w2f1k1_g9+D"


def test_an_unknown_family_is_told_which_there_are() -> None:
    default = parse_schedule(ORDERS["vanilla"].default_schedule)
    with pytest.raises(InvalidRequest, match=r"temporal_kernel.*td_f16k4f2k2f1k1_g9"):
        fitted_schedule("geometrical", default, FamilyOptions())
