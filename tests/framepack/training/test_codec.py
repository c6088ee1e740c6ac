import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.models.vae import load_codec
from framepack.training.codec import CodecRun, CodecTraining, export_codec, start_codec
from framepack.training.config import TrainingConfig, WorldData
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.stages import Training
from framepack.training.transformer import TransformerTraining

ENCODER = ("encoder", "quant_conv")


def settings(steps: int = 3, frozen: float = 1.0) -> CodecTraining:
    run = RunSettings(RateSchedule(steps, warmup=1), report_every=steps, bfloat16=False)
    return CodecTraining(run, batch=1, frames=5, frozen=frozen, start_clips=4, held_out=1)


@pytest.fixture(scope="module")
def started(tiny_autoencoder: Any) -> Any:
    vae = tiny_autoencoder()
    assert 0.5 < start_codec(vae, settings()) < 2
    return vae


@pytest.fixture
def vae(started: Any, tiny_autoencoder: Any) -> Any:
    copy = tiny_autoencoder()
    copy.load_state_dict(started.state_dict())
    return copy


def moved(run: CodecRun, started: Any) -> set[bool]:
    """Whether the encoder moved, and whether the decoder did."""
    before = started.state_dict()
    return {
        name.startswith(ENCODER)
        for name, tensor in run.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }


def test_a_frozen_encoder_stands_still(started: Any, vae: Any, run_folder: Path) -> None:
    run = CodecRun(vae, settings(), run_folder)
    (figures,) = run.advance()
    assert moved(run, started) == {False}
    assert 15 < float(figures["held_out_psnr"]) < 40


def test_an_encoder_freed_later_moves_then(started: Any, vae: Any, run_folder: Path) -> None:
    run = CodecRun(vae, settings(frozen=0.4), run_folder)
    list(run.advance(1))
    assert moved(run, started) == {False}
    list(run.advance(2))
    assert moved(run, started) == {False, True}


def test_a_cut_run_is_the_uncut_one(
    started: Any, vae: Any, tiny_autoencoder: Any, tmp_path: Path
) -> None:
    uncut = CodecRun(vae, settings(), tmp_path / "uncut")
    list(uncut.advance())
    for _ in range(2):
        other = tiny_autoencoder()
        other.load_state_dict(started.state_dict())
        cut = CodecRun(other, settings(), tmp_path / "cut")
        list(cut.advance(2))
    assert cut.finished
    for name, tensor in uncut.average.values.items():
        assert torch.equal(cut.average.values[name], tensor), name
    with pytest.raises(InvalidRequest, match="other settings"):
        CodecRun(other, settings(frozen=0.5), tmp_path / "cut")


def test_only_the_encoder_decides_about_the_cache(
    vae: Any, nano_folder: Path, tmp_path: Path
) -> None:
    """Not the decoder, nor the sign of a zero, which averaging changes."""
    training = Training(
        TrainingConfig(WorldData(1, 1), TransformerTraining(settings().run, ())), tmp_path
    )
    shutil.copytree(nano_folder, training.weights)

    def key() -> str:
        export_codec(vae, 0.75, training.weights / "vae")
        return training.corpora().training.encoders_key

    before, weight = key(), vae.encoder.conv_in.conv.weight
    with torch.no_grad():
        vae.decoder.conv_in.conv.weight.add_(1)
        assert torch.signbit(weight[0, 0, 0, 0, 0]) == torch.signbit(torch.zeros(()))
        weight[weight == 0] = -0.0
        assert torch.signbit(weight[0, 0, 0, 0, 0])
    assert key() == before
    with torch.no_grad():
        weight[0, 0, 0, 0, 0] = 0.5
    assert key() != before


def test_an_export_states_its_scaling_and_nothing_of_this_machine(vae: Any, tmp_path: Path) -> None:
    export_codec(vae, 0.75, tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert "_name_or_path" not in config
    again = tmp_path / "again"
    loaded = load_codec(tmp_path / "vae", torch.device("cpu"), torch.float32).vae
    assert loaded.config.scaling_factor == 0.75
    torch.testing.assert_close(
        loaded.decoder.conv_in.conv.weight, vae.decoder.conv_in.conv.weight, rtol=1e-3, atol=1e-3
    )
    export_codec(loaded, 0.75, again)
    assert str(tmp_path) not in (again / "config.json").read_text()
    assert (tmp_path / "vae" / "config.json").read_text() == (again / "config.json").read_text()
