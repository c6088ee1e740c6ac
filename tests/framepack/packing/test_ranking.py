import pytest
import torch

from framepack.packing.ranking import (
    assign_levels,
    cosine_similarity,
    hybrid,
    ranked,
    time_proximity,
    truthful_positions,
)
from framepack.packing.schedule import Pack, parse_schedule
from tests.reference.ranking import literal_cosine_sum, literal_proximity

PACK = Pack(parse_schedule("td_f16k4f2k2f1k1_g9").levels)


def scene(seed: int, frames: int) -> torch.Tensor:
    """A still picture with a little motion."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(1, 16, 1, 6, 8, generator=generator)
    return picture + 0.2 * torch.randn(1, 16, frames, 6, 8, generator=generator)


def test_similarity_is_the_literal_equation() -> None:
    frames, estimate = scene(0, 3), scene(1, 2)
    mean = cosine_similarity(frames, estimate)
    total = cosine_similarity(frames, estimate, reduction="sum")
    for i in range(3):
        pairs = [literal_cosine_sum(frames[0, :, i], estimate[0, :, s]) for s in range(2)]
        assert float(total[i]) == pytest.approx(sum(pairs) / 2, abs=1e-4)
        assert float(mean[i]) == pytest.approx(sum(pairs) / 2 / 48, abs=1e-6)


def test_the_mean_does_not_depend_on_the_videos_size_and_the_sum_does() -> None:
    small = torch.ones(1, 4, 2, 4, 4)
    large = torch.ones(1, 4, 2, 8, 8)
    assert cosine_similarity(small, small).tolist() == pytest.approx([1, 1])
    assert cosine_similarity(large, large).tolist() == pytest.approx([1, 1])
    assert cosine_similarity(large, large, "sum").tolist() == pytest.approx([64, 64])


def test_absent_frames_are_like_nothing() -> None:
    assert cosine_similarity(torch.zeros(1, 4, 1, 4, 4), torch.ones(1, 4, 2, 4, 4)).tolist() == [0]


def test_time_is_the_literal_equation() -> None:
    seconds = [0.0, 1.1, 1.9, 2.4]
    expected = [literal_proximity(s, 2.0) for s in seconds]
    assert time_proximity(seconds, 2.0).tolist() == pytest.approx(expected)


def test_a_returning_scene_is_promoted_to_the_finest_level() -> None:
    """Scene A, a long scene B, and the next section shows A again."""
    frames = torch.cat([scene(0, 9), scene(1, 45)], dim=2)
    numbers = list(range(1, 55))
    estimate = scene(0, 9)
    similarity = cosine_similarity(frames, estimate)
    proximity = time_proximity([4 * n / 30 for n in numbers], 4 * 55 / 30)

    by_time = assign_levels(ranked(numbers, proximity), PACK)
    assert by_time[0].frames == (54,)
    assert {f for level in by_time for f in level.frames} == set(range(36, 55)), "A is forgotten"

    similar = assign_levels(ranked(numbers, similarity), PACK)
    assert set(similar[0].frames + similar[1].frames) <= set(range(1, 10))
    assert set(range(1, 10)) <= {f for level in similar for f in level.frames}

    both = assign_levels(ranked(numbers, hybrid(similarity, proximity, 0.5)), PACK)
    assert both[0].frames[0] in range(1, 10)
    assert 54 in both[-1].frames, "the newest frame is still seen"
    heavy = assign_levels(ranked(numbers, hybrid(similarity, proximity, 10.0)), PACK)
    assert heavy[0].frames == (54,)


def test_levels_are_full_and_positions_truthful() -> None:
    levels = assign_levels([5, 0, 3], PACK)
    assert [str(level.kernel) for level in levels] == ["k1", "k2", "k4"]
    assert levels[0].frames == (5,)
    assert levels[1].frames == (0, 3)
    assert levels[2].frames == tuple(range(-16, 0)), "zeros before the video"
    assert truthful_positions((0, 3, 5), target=10, position=20) == (10, 13, 15)


def test_among_equals_the_newer_comes_first() -> None:
    assert ranked([1, 2, 3], torch.tensor([0.5, 0.5, 0.9])) == (3, 2, 1)
