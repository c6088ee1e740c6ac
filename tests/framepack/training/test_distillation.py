import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.loading import load_transformer
from framepack.models.tiny import SIZES
from framepack.presets import Models
from framepack.training.config import TrainingConfig, WorldData
from framepack.training.distillation import DistillationSettings, Teacher
from framepack.training.examples import Arm, choose_batch, collate, uncaptioned_batch
from framepack.training.processes import Processes
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.stages import Training
from framepack.training.transformer import (
    Corpus,
    Denoiser,
    TransformerRun,
    TransformerTraining,
    predict_velocity,
)

SETTINGS = TransformerTraining(
    run=RunSettings(RateSchedule(30, warmup=3), report_every=30, bfloat16=False, average=0.5),
    arms=(Arm("forward", "forward", 1.0),),
    batch=4,
    rate=2e-3,
    held_out_batch=4,
    distillation=DistillationSettings(cfg_scale=3.0),
)


def _random_model() -> PackedHunyuanVideo:
    """Without a start that says nothing, so captions make a difference."""
    torch.manual_seed(1)
    return PackedHunyuanVideo(SIZES["nano"].transformer)


def test_the_target_is_the_guided_velocity_of_generation(nano_corpus: Corpus) -> None:
    choices = choose_batch(SETTINGS.arms[0], nano_corpus.clips, random.Random(0), 0.0, 2)
    batch = collate([choice.cut(0.5, {}) for choice in choices], nano_corpus.uncaptioned)
    levels, noise = torch.tensor([0.3, 0.8]), torch.randn(batch.target.shape)
    model = _random_model()
    teacher = Teacher(
        Denoiser(model, 10.0), DistillationSettings(cfg_scale=2.5), nano_corpus.uncaptioned
    )
    with torch.no_grad():
        towards = predict_velocity(model, batch, levels, noise, 10.0)
        bare = uncaptioned_batch(batch, nano_corpus.uncaptioned)
        apart = predict_velocity(model, bare, levels, noise, 10.0)
    assert torch.equal(bare.condition.image, batch.condition.image)
    assert not torch.allclose(towards, apart, atol=1e-3)
    wanted = apart + 2.5 * (towards - apart)
    assert torch.allclose(teacher.velocity(batch, levels, noise), wanted, atol=1e-5)


def test_a_student_comes_near_and_its_teacher_stays(nano_corpus: Corpus, run_folder: Path) -> None:
    teacher = _random_model()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    run = TransformerRun(_random_model(), SETTINGS, nano_corpus, run_folder, teacher=teacher)
    start = float(run.measure()["held_out_forward"])
    *_, figures = run.advance()
    assert float(figures["held_out_forward"]) < 0.6 * start
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_training_that_is_cut_keeps_its_first_teacher(
    nano_models: Models, tmp_path: Path
) -> None:
    """The folder of weights moves on with every slice; the teacher is where it started."""
    start = nano_models.folder("transformer").parent
    settings = replace(SETTINGS, run=replace(SETTINGS.run, rates=RateSchedule(4)))
    data = WorldData(clips=2, held_out=2, latent_frames=19)
    config = TrainingConfig(data, settings, size="nano", start=str(start))
    list(Training(config, tmp_path / "uncut").run())
    for _ in range(2):
        list(Training(config, tmp_path / "cut").run(steps=2))
    ours, theirs = (
        load_transformer(tmp_path / name / "weights" / "transformer").state_dict()
        for name in ("cut", "uncut")
    )
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_what_cannot_be_distilled_is_said(nano_corpus: Corpus, run_folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="above 1"):
        DistillationSettings(cfg_scale=1.0)
    with pytest.raises(InvalidRequest, match="name a start"):
        TransformerRun(_random_model(), SETTINGS, nano_corpus, run_folder)
    with pytest.raises(InvalidRequest, match="one process"):
        TransformerRun(_random_model(), SETTINGS, nano_corpus, run_folder, Processes(0, 2))
