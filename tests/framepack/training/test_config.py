from pathlib import Path

import pytest

from framepack.errors import InvalidRequest
from framepack.training.config import RECIPES, find_config, read_config

SMALL = """
data: {clips: 2, held_out: 1}
transformer:
  run: {rates: {steps: 10, warmup: 2}}
  arms: [{name: a, order: inverted, share: 1, sections: [1, 2], pick: first}]
"""


def test_a_configuration_becomes_typed_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALL)
    config = read_config(path)
    assert config.transformer.run.rates.steps == 10
    assert config.transformer.arms[0].sections == (1, 2)
    assert config.transformer.arms[0].share == 1.0
    assert config.size == "tiny"


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("clips: 2", "clips: two", "config.data.clips"),
        ("clips: 2", "clips: true", "config.data.clips"),
        ("clips: 2", "clip: 2", "config.data"),
        ("held_out: 1", "held_out: 1, colour: 3", "colour"),
        ("pick: first", "pick: last", r"arms\[0\].pick"),
        ("[1, 2]", "[1, 2, 3]", "sections"),
        ("clips: 2", "clips: 2000000000", "held-out"),
        ("data:", "- data:", "cannot read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, before: str, after: str, named: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALL.replace(before, after))
    with pytest.raises(InvalidRequest, match=named):
        read_config(path)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_found_by_name_and_can_be_read(recipe: Path) -> None:
    config = read_config(find_config(Path(recipe.stem)))
    least = [arm.plan(arm.sections[0]) for arm in config.transformer.arms]
    assert all(len(sections) >= 1 for sections in least)
    assert sum(arm.share for arm in config.transformer.arms) == pytest.approx(1)


@pytest.mark.parametrize("preset", ["tiny-wan", "huge"])
def test_only_presets_of_one_family_are_trained(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALL + f"preset: {preset}\n")
    with pytest.raises(InvalidRequest, match=f"'{preset}' cannot be trained; .*framepack-i2v"):
        read_config(path)
