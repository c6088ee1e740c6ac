from framepack.models.tiny import WORDS
from framepack.world.scene import (
    BACKGROUNDS,
    COLOURS,
    FIRST_HELD_OUT_SEED,
    MOTIONS,
    SHAPES,
    draw_scene,
)


def test_a_seed_names_one_scene_for_ever() -> None:
    scene = draw_scene(7)
    assert scene == draw_scene(7)
    assert scene != draw_scene(8)
    assert draw_scene(0).caption == (
        "a red ball that bounces on the floor over a checkered olive background"
    )


def test_the_text_towers_know_every_word_of_every_caption() -> None:
    captions = {draw_scene(seed).caption for seed in range(500)}
    assert {word for caption in captions for word in caption.split()} <= set(WORDS)


def test_scenes_show_everything_there_is() -> None:
    scenes = [draw_scene(FIRST_HELD_OUT_SEED + n) for n in range(400)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.motion for thing in things} == set(MOTIONS)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {scene.background.colour for scene in scenes} == set(BACKGROUNDS)
    assert 0.15 < sum(len(scene.things) == 2 for scene in scenes) / len(scenes) < 0.35


def test_things_are_of_a_size_and_speed_that_the_codec_carries() -> None:
    things = [thing for seed in range(300) for thing in draw_scene(seed).things]
    assert min(2 * thing.radius for thing in things) >= 18
    assert max(thing.speed for thing in things) <= 1


def test_two_things_have_two_colours() -> None:
    for seed in range(50):
        first, second = draw_scene(seed, num_things=2).things
        assert first.colour != second.colour


def test_an_article_fits_its_word() -> None:
    captions = " ".join(draw_scene(seed).caption for seed in range(300))
    assert "an orange" in captions
    assert "a orange" not in captions
