import json
from pathlib import Path

import numpy as np
import pytest

from framepack.cli import main
from framepack.errors import InvalidRequest
from framepack.evaluation.world import WorldEvaluation, measure, summarise
from framepack.world.render import render
from framepack.world.scene import draw_scene


def test_one_command_prints_figures_of_every_arm(
    nano_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "world", "--weights", str(nano_folder), "--specs", "1", "--seeds", "1"]
    size = ["--sections", "2", "--steps", "1", "--arms", "truth,codec,inverted"]
    assert main([*command, *size, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    arms = content["arms"]
    assert content["evaluation"]["sections"] == 2
    assert list(arms) == ["truth", "codec", "inverted"]
    assert arms["truth"]["presence"]["min"] == 1
    assert arms["truth"]["psnr"]["start"] == 60
    assert arms["truth"]["speed_ratio"]["mean"] == 1
    assert arms["codec"]["psnr"]["start"] < 30  # random weights
    assert "psnr" not in arms["inverted"]
    assert arms["inverted"]["iou"]["start"] < 0.5
    for figures in arms["inverted"].values():
        assert figures.keys() in ({"start", "end", "delta", "min", "ci95"}, {"mean", "ci95"})
    assert main([*command, *size, "--arms", "truth"]) == 0
    assert "background_psnr" in capsys.readouterr().out


def test_a_frozen_picture_fails() -> None:
    scene = draw_scene(5, num_things=1)
    truth = render(scene, 73).frames
    frozen = np.repeat(truth[:1], len(truth), axis=0)
    arms = {
        name: [measure(frames, truth, scene, 9, control=True)]
        for name, frames in (("truth", truth), ("frozen", frozen))
    }
    figures = summarise(arms)
    assert figures["frozen"]["speed_ratio"]["mean"] == 0
    assert figures["frozen"]["motion_class"]["mean"] == 0
    assert figures["truth"]["speed_ratio"]["mean"] == 1
    assert figures["frozen"]["iou"]["start"] == pytest.approx(
        figures["truth"]["iou"]["start"], abs=0.1
    )  # by looks alone it would pass


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(InvalidRequest, match="no sideways"):
        WorldEvaluation(arms=("truth", "sideways"))


def test_controls_count_once() -> None:
    assert WorldEvaluation(specs=3, seeds=2, arms=("truth", "codec", "vanilla")).videos == 12
