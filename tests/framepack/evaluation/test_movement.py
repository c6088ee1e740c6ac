from dataclasses import replace

import numpy as np
import pytest

from framepack.evaluation.appearance import measure_appearance
from framepack.evaluation.movement import classify_motion, law_shares, mean_speed, seam_ratios
from framepack.world.motion import centres
from framepack.world.render import render
from framepack.world.scene import MOTIONS, Motion, Thing, draw_scene

TIMES = np.arange(361, dtype=np.float32)


def _thing(seed: int) -> Thing:
    (thing,) = draw_scene(seed, num_things=1).things
    return thing


def _recognised(path: np.ndarray, radius: float) -> Motion | None:
    return classify_motion(law_shares(path[:, 0], path[:, 1], radius))


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_path_follows_its_law_most(motion: Motion) -> None:
    for seed in range(40):
        thing = replace(_thing(seed), motion=motion)
        path = centres(thing, TIMES).astype(np.float64)
        shares = law_shares(path[:, 0], path[:, 1], thing.radius)
        assert shares[motion] > 0.8  # the rest are turns at walls
        assert classify_motion(shares) == motion


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_law_of_a_wavering_path_is_recovered(motion: Motion) -> None:
    right = 0
    for seed in range(40):
        thing = replace(_thing(seed), motion=motion)
        path = centres(thing, TIMES).astype(np.float64)
        path += np.random.default_rng(seed).normal(0, 0.3, path.shape)  # as a mask's middle has
        right += _recognised(path, thing.radius) == motion
    assert right >= 38


def test_a_jump_does_not_hide_the_law() -> None:
    thing = replace(_thing(3), motion="moves")
    path = centres(thing, TIMES)
    path[180:] = centres(replace(thing, y=thing.y + 17), TIMES)[180:]
    path[100:140] = np.nan  # nor does it matter that the thing is away for a while
    assert _recognised(path, thing.radius) == "moves"


def test_a_walk_without_law_is_hardly_ever_recognised() -> None:
    right = 0
    for seed in range(200):
        rng, thing = np.random.default_rng(seed), _thing(seed)
        angle = np.cumsum(rng.normal(0, 0.15, 361))
        walk = np.cumsum(0.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1), axis=0)
        path = 14 + np.abs(np.mod(walk + 18, 72) - 36)  # turned back by walls
        right += _recognised(path, thing.radius) == thing.motion
    assert right <= 6


def test_half_a_video_of_another_law_is_not_recognised_as_either_for_long() -> None:
    """Following a law for a third of the time is not enough."""
    thing = _thing(5)
    path = centres(replace(thing, motion="slides"), TIMES)
    path[120:240] = centres(replace(thing, motion="moves"), TIMES)[120:240]
    path[240:] = centres(replace(thing, motion="drifts"), TIMES)[240:]
    assert _recognised(path, thing.radius) is None


def test_a_frozen_picture_has_no_motion() -> None:
    scene = draw_scene(4, num_things=1)
    seen = measure_appearance(np.repeat(render(scene, 1).frames, 40, axis=0), scene)
    shares = law_shares(seen.x, seen.y, scene.things[0].radius)
    assert set(shares.values()) == {0.0}
    assert classify_motion(shares) is None
    assert mean_speed(seen.x, seen.y) == 0


def test_a_thing_that_is_not_seen_has_no_motion() -> None:
    nowhere = np.full(50, np.nan)
    assert classify_motion(law_shares(nowhere, nowhere, 10.0)) is None
    assert mean_speed(nowhere, nowhere) == 0


def test_the_number_of_pixels_does_not_matter() -> None:
    thing = replace(_thing(7), motion="circles")
    path = (centres(thing, TIMES).astype(np.float64) + 0.5) * 2 - 0.5
    assert classify_motion(law_shares(path[:, 0], path[:, 1], thing.radius, 128)) == "circles"


def test_speed_is_in_pixels_a_frame_and_skips_gaps() -> None:
    x = np.arange(10.0) * 0.5
    x[4] = np.nan
    assert mean_speed(x, np.zeros(10)) == pytest.approx(0.5)


def test_a_jump_between_sections_shows() -> None:
    frames = render(draw_scene(9, num_things=1), 1 + 4 * 45).frames
    assert seam_ratios(frames, window=9).mean() == pytest.approx(1, abs=0.3)
    jumping = frames.copy()
    for seam in range(37, len(frames), 36):
        jumping[seam:] = np.roll(jumping[seam:], 6, axis=2)
    assert seam_ratios(jumping, window=9).mean() > 3
    assert len(seam_ratios(jumping, window=9)) == 4
    assert len(seam_ratios(frames[:37], window=9)) == 0
