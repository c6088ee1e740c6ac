"""The arithmetic of windows, against counting by hand."""

from itertools import pairwise

import pytest

from framepack.models.codec import Tiling

HUNYUAN = Tiling(window=5, stride=3, blend=4, temporal_compression=4)
TILINGS = [
    HUNYUAN,
    Tiling(window=9, stride=6, blend=8, temporal_compression=4),
    Tiling(window=9, stride=4, blend=16, temporal_compression=4),
    Tiling(window=2, stride=1, blend=0, temporal_compression=4),
]


@pytest.mark.parametrize(("latents", "windows"), [(9, 3), (10, 3), (18, 6), (19, 6), (1, 1)])
def test_windows_of_the_released_autoencoder(latents: int, windows: int) -> None:
    """diffusers also decodes one latent frame at the end of 10 and 19, which shows nothing."""
    assert HUNYUAN.grid(range(latents)).num_windows == windows


def test_first_windows_of_the_released_autoencoder() -> None:
    grid = HUNYUAN.grid(range(19))
    assert [grid.latents(k) for k in range(3)] == [range(5), range(3, 8), range(6, 11)]
    assert [grid.frames(k) for k in range(2)] == [range(17), range(13, 29)]
    assert [grid.seam(k) for k in range(2)] == [range(0), range(13, 17)]
    assert [grid.body(k) for k in range(2)] == [range(13), range(17, 25)]
    assert grid.latents(5) == range(15, 19)
    assert grid.body(5) == range(65, 73)


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("latents", range(1, 30))
@pytest.mark.parametrize("first", [0, 1])
def test_every_frame_is_shown_once(tiling: Tiling, latents: int, first: int) -> None:
    grid = tiling.grid(range(first, first + latents))
    shown = [f for k in range(grid.num_windows) for f in (*grid.seam(k), *grid.body(k))]
    assert shown == list(range(tiling.temporal_compression * (latents - 1) + 1))


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("first", [0, 1])
def test_containing_is_the_inverse_of_latents(tiling: Tiling, first: int) -> None:
    grid = tiling.grid(range(first, first + 28))
    for frame in range(first, first + 28):
        decoding = [k for k in range(grid.num_windows) if frame in grid.latents(k)]
        assert list(grid.containing(frame)) == decoding
    assert all(b.start > a.start for a, b in pairwise(map(grid.frames, range(grid.num_windows))))


def test_windows_that_lie_apart_are_clips_of_their_own() -> None:
    """Helios: 33 frames from 9 latent frames, the start picture's latent in none of them."""
    grid = Tiling(window=9, stride=9, blend=0, temporal_compression=4).grid(range(1, 1 + 2 * 9))
    assert grid.num_windows == 2
    assert [grid.latents(k) for k in range(2)] == [range(1, 10), range(10, 19)]
    assert [grid.body(k) for k in range(2)] == [range(33), range(33, 66)]
    assert not any(grid.seam(k) for k in range(2))
    assert [list(grid.containing(f)) for f in (0, 1, 9, 10, 18)] == [[], [0], [0], [1], [1]]


def test_windows_must_meet_and_fade_only_with_their_neighbours() -> None:
    with pytest.raises(ValueError, match="leave no gap"):
        Tiling(window=3, stride=4, blend=0, temporal_compression=4)
    with pytest.raises(ValueError, match="cannot fade"):
        Tiling(window=3, stride=3, blend=4, temporal_compression=4)
    with pytest.raises(ValueError, match="leave no gap"):
        Tiling(window=9, stride=3, blend=4, temporal_compression=4)
    with pytest.raises(ValueError, match="fade must end"):
        Tiling(window=5, stride=3, blend=13, temporal_compression=4)
