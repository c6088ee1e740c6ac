"""Numbers that a training cannot use are refused where they are read, by their name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.tiny import SIZES
from framepack.training.config import TrainingConfig, WorldData, build
from framepack.training.examples import Arm
from framepack.training.files import FileData, find_clips
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.stages import Training
from framepack.training.starts import start_transformer
from framepack.training.transformer import Corpus, TransformerRun, TransformerTraining

SETTINGS = TransformerTraining(
    run=RunSettings(RateSchedule(4), report_every=2, save_every=100, bfloat16=False),
    arms=(Arm("forward", "forward", 1.0),),
    batch=2,
    held_out_batch=2,
)


def _config(**changes: Any) -> dict[str, Any]:
    transformer = {
        "run": {"rates": {"steps": 4}},
        "arms": [{"name": "forward", "order": "forward", "share": 1.0}],
        **changes.pop("transformer", {}),
    }
    data = {"clips": 2, "held_out": 2, **changes.pop("data", {})}
    return {"size": "nano", "data": data, "transformer": transformer, **changes}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"transformer": {"batch": 0}}, "batch"),
        ({"transformer": {"accumulate": -1}}, "accumulate"),
        ({"transformer": {"rate": float("nan")}}, "rate"),
        ({"transformer": {"dropout": 3.0}}, "dropout"),
        ({"transformer": {"levels": {"shift": float("nan")}}}, "shift"),
        ({"transformer": {"run": {"rates": {"steps": 4, "hold": 1.0}}}}, "hold"),
        ({"transformer": {"run": {"rates": {"steps": 0}}}}, "steps"),
        ({"transformer": {"run": {"rates": {"steps": 4}, "save_every": 0}}}, "save_every"),
        ({"transformer": {"lora": {"rank": 4, "alpha": 0.0}}}, "alpha"),
        ({"data": {"clips": 0}}, "clips"),
        ({"data": {"pixels": 50}}, "pixels"),
        ({"size": "bogus"}, "size"),
        ({"transformer": {"distillation": {"cfg_scale": 2.0}}}, "distillation"),
    ],
)
def test_a_number_out_of_range_is_named(changes: dict[str, Any], named: str) -> None:
    assert build(TrainingConfig, _config(), "config").size == "nano"
    with pytest.raises(InvalidRequest) as refused:
        build(TrainingConfig, _config(**changes), "config")
    assert named in str(refused.value)


def _model() -> PackedHunyuanVideo:
    torch.manual_seed(0)
    model = PackedHunyuanVideo(SIZES["nano"].transformer)
    start_transformer(model)
    return model


def test_the_log_of_a_run_cut_between_reports_is_the_uncut_ones(
    nano_corpus: Corpus, tmp_path: Path
) -> None:
    list(TransformerRun(_model(), SETTINGS, nano_corpus, tmp_path / "uncut").advance())
    for steps in (3, None):
        list(TransformerRun(_model(), SETTINGS, nano_corpus, tmp_path / "cut").advance(steps))
    logs = [
        [row.split(",")[2:] for row in (tmp_path / name / "log.csv").read_text().splitlines()]
        for name in ("uncut", "cut")
    ]
    assert logs[0] == logs[1]


def test_the_state_of_more_processes_is_not_begun_anew(
    nano_corpus: Corpus, run_folder: Path
) -> None:
    list(TransformerRun(_model(), SETTINGS, nano_corpus, run_folder).advance(1))
    (run_folder / "state.pt").rename(run_folder / "state-0-of-2.pt")
    with pytest.raises(InvalidRequest, match="another number of processes"):
        TransformerRun(_model(), SETTINGS, nano_corpus, run_folder)


def test_weights_made_otherwise_are_not_trained_on(tmp_path: Path) -> None:
    config = TrainingConfig(WorldData(clips=2, held_out=2), SETTINGS, size="nano", seed=1)
    Training(config, tmp_path).prepare()
    Training(config, tmp_path).prepare()
    with pytest.raises(InvalidRequest, match="seed"):
        Training(replace(config, seed=2), tmp_path).prepare()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"video": "a.mp4", "caption": "x"}, {"video": "a.mp4", "caption": "y"}], "twice"),
        ([{"video": "a.mp4", "caption": None}], "caption"),
        ([{"video": "a.mp4", "caption": " "}], "empty"),
    ],
)
def test_captions_that_are_none_are_refused(
    lines: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not looked at before its caption")
    listed = tmp_path / "list.jsonl"
    listed.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = FileData(str(listed), latent_frames=2, fps=30.0)
    with pytest.raises(InvalidRequest, match=said):
        find_clips(data, ((64, 64),), tmp_path / "hashes")
