"""LoRA runs: only factors move, cut runs are exact, what is exported is what was trained."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from framepack.cli import main
from framepack.errors import InvalidRequest
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.loading import WEIGHTS, files_sha256
from framepack.models.lora import merge_lora, read_lora, weight_shapes
from framepack.models.tiny import SIZES
from framepack.training.config import read_config
from framepack.training.examples import Arm, collate, cut
from framepack.training.lora import LoraTraining, add_lora, collect_lora
from framepack.training.rates import RateSchedule
from framepack.training.run import RunSettings
from framepack.training.stages import Training
from framepack.training.transformer import (
    Corpus,
    TransformerRun,
    TransformerTraining,
    predict_velocity,
)

SETTINGS = TransformerTraining(
    run=RunSettings(RateSchedule(12, warmup=2), report_every=6, save_every=5, bfloat16=False),
    arms=(Arm("forward", "forward", 1.0),),
    batch=4,
    rate=1e-2,
    held_out_batch=4,
    lora=LoraTraining(rank=4, alpha=8.0, dropout=0.2),
)


@pytest.fixture
def base() -> Callable[[], PackedHunyuanVideo]:
    def make() -> PackedHunyuanVideo:
        torch.manual_seed(0)
        return PackedHunyuanVideo(SIZES["nano"].transformer).eval()

    return make


def test_only_factors_move_and_the_loss_falls(
    base: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, run_folder: Path
) -> None:
    run = TransformerRun(base(), SETTINGS, nano_corpus, run_folder)
    before = run.measure()
    *_, figures = run.advance()
    assert float(figures["held_out_forward"]) < 0.97 * float(before["held_out_forward"])
    untouched, weights = base().state_dict(), run.model.state_dict()
    for name, tensor in weights.items():
        if "lora_" not in name:
            assert torch.equal(tensor, untouched[name.replace(".base_layer", "")]), name
    assert {name.split(".lora_")[0] for name in run.average.values} == set(
        LoraTraining().chosen(base())
    )


def test_a_cut_lora_run_is_the_uncut_one_dropout_included(
    base: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, tmp_path: Path
) -> None:
    uncut = TransformerRun(base(), SETTINGS, nano_corpus, tmp_path / "uncut")
    list(uncut.advance(8))
    for steps in (3, 5):
        cut_run = TransformerRun(base(), SETTINGS, nano_corpus, tmp_path / "cut")
        list(cut_run.advance(steps))
    assert cut_run.step == uncut.step == 8
    for name, tensor in uncut.average.values.items():
        assert torch.equal(cut_run.average.values[name], tensor), name
    state = torch.load(tmp_path / "cut" / "state.pt", weights_only=True)
    assert all("lora_" in name for name in state["model"])


def test_the_export_merged_into_the_base_is_the_trained_model(
    base: Callable[[], PackedHunyuanVideo], nano_corpus: Corpus, run_folder: Path
) -> None:
    run = TransformerRun(base(), SETTINGS, nano_corpus, run_folder)
    list(run.advance(4))
    assert SETTINGS.lora is not None
    lora = collect_lora(run.averaged_weights(), SETTINGS.lora, {})
    merged = base()
    merge_lora(merged, lora)
    example = cut(nano_corpus.clips[0], SETTINGS.arms[0].plan(2), 1)
    batch = collate([example], nano_corpus.uncaptioned)
    noise, levels = torch.randn(batch.target.shape), torch.tensor([0.5])
    with torch.no_grad(), run.averaged() as trained:
        expected = predict_velocity(trained, batch, levels, noise, 10.0)
        made = predict_velocity(merged, batch, levels, noise, 10.0)
        plain = predict_velocity(base(), batch, levels, noise, 10.0)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)
    assert (made - plain).abs().max() > 100 * (made - expected).abs().max()


def test_include_and_exclude_choose_modules(base: Callable[[], PackedHunyuanVideo]) -> None:
    model = base()
    chosen = LoraTraining().chosen(model)
    assert "transformer_blocks.0.attn.add_q_proj" in chosen
    assert "single_transformer_blocks.0.proj_out" in chosen
    assert not [name for name in chosen if "norm" in name or "embed" in name]
    history = LoraTraining(include=("clean_x_embedder",), exclude=("4x",))
    assert history.chosen(model) == ["clean_x_embedder.proj", "clean_x_embedder.proj_2x"]
    assert "proj_out" not in LoraTraining(include=(".",), exclude=()).chosen(model)
    with pytest.raises(InvalidRequest, match=r"nowhere.* fits none of \d+ modules"):
        LoraTraining(include=("nowhere",)).chosen(model)
    with pytest.raises(InvalidRequest, match="no regular expression"):
        LoraTraining(include=("(",))


def test_factors_of_a_half_precision_model_are_whole(
    base: Callable[[], PackedHunyuanVideo],
) -> None:
    model = base().bfloat16()
    add_lora(model, replace(LoraTraining(), rank=2), seed=0)
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}


RECIPE = """
start: {start}
data: {{clips: 2, held_out: 1, latent_frames: 19, cast: {{colours: [purple]}}}}
transformer:
  run: {{rates: {{steps: 2, warmup: 1}}, report_every: 1, bfloat16: false}}
  arms: [{{name: inverted, order: inverted, share: 1}}]
  batch: 2
  held_out_batch: 2
  lora: {{rank: 2, dialects: [diffusers, kohya, original]}}
"""


def test_one_command_trains_a_lora_and_leaves_its_base_alone(
    nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "lora.yaml", tmp_path / "out"
    config.write_text(RECIPE.format(start=nano_folder))
    before = files_sha256(nano_folder)
    threads = torch.get_num_threads()
    try:
        assert main(["train", str(config), "-o", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert "transformer: step 2" in capsys.readouterr().out
    assert files_sha256(nano_folder) == before
    shapes = weight_shapes(PackedHunyuanVideo(SIZES["nano"].transformer))
    names = ("lora.safetensors", "lora.kohya.safetensors", "lora.original.safetensors")
    first, *others = (read_lora(out / name, shapes) for name in names)
    assert first.metadata["base_sha256"] == files_sha256(nano_folder / "transformer")
    assert any(factors.delta().any() for factors in first.factors.values())
    for other in others:
        for name, factors in first.factors.items():
            torch.testing.assert_close(other.factors[name].delta(), factors.delta())


def test_a_lora_needs_a_base(nano_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "lora.yaml"
    config.write_text(RECIPE.format(start="null"))
    with pytest.raises(InvalidRequest, match="a LoRA changes trained weights"):
        Training(read_config(config), tmp_path / "out")


def test_a_lora_is_not_resumed_on_another_base(nano_folder: Path, tmp_path: Path) -> None:
    config, base = tmp_path / "lora.yaml", tmp_path / "base"
    shutil.copytree(nano_folder, base)
    config.write_text(RECIPE.format(start=base))
    training = Training(read_config(config), tmp_path / "out")
    list(training.run(steps=1))
    path = base / "transformer" / WEIGHTS
    state = load_file(path)
    state["proj_out.bias"] += 1
    save_file(state, path)
    with pytest.raises(InvalidRequest, match="other settings"):
        list(training.run())
