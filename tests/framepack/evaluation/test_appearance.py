from dataclasses import replace

import numpy as np
import pytest

from framepack.evaluation.appearance import Video, measure_appearance
from framepack.world.render import draw_background, render
from framepack.world.scene import SHAPES, Scene, Shape, draw_scene


@pytest.fixture
def scene() -> Scene:
    drawn = draw_scene(17, num_things=1)
    return replace(drawn, things=(replace(drawn.things[0], shape="square", colour="yellow"),))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_truth_is_found_flawless(shape: Shape) -> None:
    for seed in (1, 2, 3):
        scene = draw_scene(seed, num_things=1)
        scene = replace(scene, things=(replace(scene.things[0], shape=shape),))
        clip = render(scene, 12)
        seen = measure_appearance(clip.frames, scene)
        assert seen.background_psnr.min() > 55
        assert seen.presence.min() == 1
        assert seen.iou.min() > 0.9
        assert np.nanmax(seen.colour_error) < 0.02
        np.testing.assert_allclose(np.stack([seen.x, seen.y], -1), clip.centres[0], atol=0.5)


def test_a_lost_thing_is_absent(scene: Scene) -> None:
    ground = np.moveaxis(draw_background(scene.background), 0, -1)
    frames = np.repeat((ground * 255).astype(np.uint8)[None], 3, axis=0)
    seen = measure_appearance(frames, scene)
    assert seen.presence.tolist() == seen.iou.tolist() == [0, 0, 0]
    assert np.isnan(seen.x).all()


def corrupted(frames: Video, kind: str) -> Video:
    values = frames.astype(np.float32)
    if kind == "noise":
        values += np.random.default_rng(0).normal(0, 12, values.shape)
    elif kind == "tint":
        values[..., 2] += 40
    elif kind == "blur":
        for axis in (1, 2):
            shifted = [np.roll(values, by, axis) for by in range(-4, 5)]
            values = np.mean(shifted, axis=0, dtype=np.float32)
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "worse"),
    [("noise", "background_psnr"), ("tint", "colour_error"), ("blur", "iou")],
)
def test_a_fault_shows_in_its_measure(scene: Scene, kind: str, worse: str) -> None:
    frames = render(scene, 6).frames
    good = np.nanmean(getattr(measure_appearance(frames, scene), worse))
    bad = np.nanmean(getattr(measure_appearance(corrupted(frames, kind), scene), worse))
    limits = {"background_psnr": good - 20, "colour_error": good + 0.03, "iou": good - 0.1}
    assert bad > limits[worse] if worse == "colour_error" else bad < limits[worse]


def test_the_wrong_shape_shows(scene: Scene) -> None:
    other = replace(scene, things=(replace(scene.things[0], shape="triangle"),))
    assert measure_appearance(render(other, 4).frames, scene).iou.max() < 0.75


def test_two_things_are_refused() -> None:
    scene = draw_scene(0, num_things=2)
    with pytest.raises(ValueError, match="unpack"):
        measure_appearance(render(scene, 1).frames, scene)
