import time
from dataclasses import replace

import numpy as np
import pytest

from framepack.errors import InvalidRequest
from framepack.world.motion import centres
from framepack.world.render import draw_background, render, silhouette
from framepack.world.scene import COLOURS, MOTIONS, SHAPES, Cast, Motion, Shape, draw_scene


def test_a_clip_is_reproducible_and_continues_itself() -> None:
    scene = draw_scene(3)
    whole = render(scene, 20)
    again = render(replace(scene, start=scene.start + 8), 12)
    np.testing.assert_array_equal(whole.frames[8:], again.frames)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_tells_where_the_colour_is(shape: Shape) -> None:
    scene = draw_scene(11, num_things=1)
    thing = replace(scene.things[0], shape=shape, colour="red")
    clip = render(replace(scene, things=(thing,)), 5)
    inside, outside = clip.masks[0] == 1, clip.masks[0] == 0
    assert 80 < inside.sum() / 5 < 800
    shade = clip.frames[inside] / 255 / np.array(COLOURS["red"])
    assert shade.min() > 0.75  # the darker rim
    assert shade.max() < 1.02
    ground = np.moveaxis(draw_background(scene.background), 0, -1)
    still = np.broadcast_to(ground, (5, *ground.shape))[outside]
    assert np.abs(clip.frames[outside] / 255 - still).max() < 0.003


def test_the_centre_is_the_middle_of_the_mask() -> None:
    scene = draw_scene(5, num_things=1)
    scene = replace(scene, things=(replace(scene.things[0], shape="ball"),))
    for pixels in (64, 96):
        clip = render(scene, 9, pixels)
        grid = np.mgrid[:pixels, :pixels][::-1].astype(np.float64)
        weights = clip.masks[0] / clip.masks[0].sum((1, 2), keepdims=True)
        middle = np.einsum("thw,chw->tc", weights, grid)
        np.testing.assert_allclose(middle, clip.centres[0], atol=0.05)


@pytest.mark.parametrize("motion", MOTIONS)
def test_nothing_leaves_the_picture_or_jumps(motion: Motion) -> None:
    for seed in range(20):
        (thing,) = draw_scene(seed, num_things=1).things
        thing = replace(thing, motion=motion)
        path = centres(thing, np.arange(400, dtype=np.float32))
        assert path.min() >= thing.radius
        assert path.max() <= 63 - thing.radius + 1e-3
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
        assert steps.max() <= 2.3 * thing.speed
        assert steps.mean() >= 0.3 * thing.speed


def test_each_motion_is_what_the_caption_says() -> None:
    times = np.arange(300, dtype=np.float32)
    (thing,) = draw_scene(2, num_things=1).things
    spread = {
        motion: np.ptp(centres(replace(thing, motion=motion), times), axis=0) for motion in MOTIONS
    }
    assert spread["slides"][0] > 20
    assert spread["slides"][1] == 0
    assert spread["moves"][0] == 0
    assert spread["moves"][1] > 20
    assert min(spread["circles"]) > 10
    assert min(spread["drifts"]) > 10
    bounce = centres(replace(thing, motion="bounces"), times)[:, 1]
    assert bounce.max() == pytest.approx(63 - thing.radius, abs=0.5)
    assert (np.diff(bounce) < 0).mean() == pytest.approx(0.5, abs=0.1)


def test_rendering_keeps_up_with_training() -> None:
    scenes = [draw_scene(seed) for seed in range(40)]
    render(scenes[0], 17)
    began = time.process_time()
    for scene in scenes:
        render(scene, 17)
    assert (time.process_time() - began) / len(scenes) < 0.005  # about 0.8 ms on an idle core


def test_unseen_things_are_drawn_only_where_asked_for() -> None:
    drawn = [thing for seed in range(60) for thing in draw_scene(seed).things]
    assert {thing.colour for thing in drawn} == set(COLOURS)
    assert {thing.shape for thing in drawn} == set(SHAPES)
    cast = Cast(colours=("purple",), shapes=("cross",))
    for seed in range(8):
        plain, chosen = draw_scene(seed), draw_scene(seed, cast=cast)
        assert chosen.background == plain.background
        assert [(t.colour, t.shape) for t in chosen.things] == [("purple", "cross")]
    assert "a purple cross that" in draw_scene(3, cast=cast).caption
    with pytest.raises(InvalidRequest, match="there is no mauve; choose from red"):
        Cast(colours=("mauve",))
    with pytest.raises(InvalidRequest, match="name at least one"):
        Cast(shapes=())


def test_a_cross_has_two_bars() -> None:
    thing = draw_scene(0, 1, Cast(shapes=("cross",))).things[0]
    mask = silhouette(replace(thing, radius=12.0), 31.5, 31.5) > 0.5
    assert mask[31, 22:42].all()
    assert mask[22:42, 31].all()
    assert not mask[24, 24]
    assert (mask == mask.T).all()
