from dataclasses import replace

import numpy as np
import pytest

from framepack.evaluation.appearance import measure_appearance
from framepack.evaluation.movement import classify_motion, mean_speed, seam_ratio
from framepack.world.motion import centres
from framepack.world.render import render
from framepack.world.scene import MOTIONS, Motion, draw_scene


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_law_of_a_path_is_recovered(motion: Motion) -> None:
    times, right = np.arange(361, dtype=np.float32), 0
    for seed in range(40):
        (thing,) = draw_scene(seed, num_things=1).things
        path = centres(replace(thing, motion=motion), times).astype(np.float64)
        path += np.random.default_rng(seed).normal(0, 0.3, path.shape)  # as a mask's middle has
        right += classify_motion(path[:, 0], path[:, 1]) == motion
    assert right >= 38


def test_a_frozen_picture_has_no_motion() -> None:
    scene = draw_scene(4, num_things=1)
    seen = measure_appearance(np.repeat(render(scene, 1).frames, 40, axis=0), scene)
    assert classify_motion(seen.x, seen.y) is None
    assert mean_speed(seen.x, seen.y) == 0


def test_a_thing_that_is_not_seen_has_no_motion() -> None:
    nowhere = np.full(50, np.nan)
    assert classify_motion(nowhere, nowhere) is None
    assert mean_speed(nowhere, nowhere) == 0


def test_speed_is_in_pixels_a_frame_and_skips_gaps() -> None:
    x = np.arange(10.0) * 0.5
    x[4] = np.nan
    assert mean_speed(x, np.zeros(10)) == pytest.approx(0.5)


def test_a_jump_between_sections_shows() -> None:
    frames = render(draw_scene(9, num_things=1), 1 + 4 * 45).frames
    assert seam_ratio(frames, window=9) == pytest.approx(1, abs=0.3)
    jumping = frames.copy()
    for seam in range(37, len(frames), 36):
        jumping[seam:] = np.roll(jumping[seam:], 6, axis=2)
    assert seam_ratio(jumping, window=9) > 3
    assert np.isnan(seam_ratio(frames[:37], window=9))
