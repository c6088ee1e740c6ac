"""What `--plan` prints, against the memory of real runs on random weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from framepack.cli import main
from framepack.errors import InvalidRequest
from framepack.models import attention
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.tiny import SIZES
from framepack.packing.schedule import Kernel
from framepack.training.config import TrainingConfig, WorldData, find_config, read_config
from framepack.training.estimate import BYTES_PER_ACTIVATION, estimate
from framepack.training.files import FileData
from framepack.training.lora import LoraTraining, add_lora
from framepack.training.memory import MemorySettings, blocks_of
from framepack.training.stages import Training
from framepack.training.transformer import Corpus, TransformerRun

RECIPE = read_config(find_config(Path("framepack-i2v-lora")))


@pytest.mark.parametrize(
    "memory",
    [
        MemorySettings(),
        MemorySettings(frozen="bfloat16", checkpointing=True),
        MemorySettings(frozen="float8", swapped_blocks=1),
    ],
)
def test_weights_and_states_are_counted_to_the_byte(
    memory: MemorySettings, nano_corpus: Corpus, run_folder: Path
) -> None:
    settings = replace(RECIPE.transformer, memory=memory)
    config = TrainingConfig(WorldData(1, 1), settings, size="nano", start="tiny")
    found = estimate(config)
    torch.manual_seed(0)
    model = PackedHunyuanVideo(SIZES["nano"].transformer)
    run = TransformerRun(model, settings, nano_corpus, run_folder)
    list(run.advance(1))
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    scales = sum(4 * p.shape[0] for p in frozen.values() if p.dtype is torch.float8_e4m3fn)
    weights = sum(p.nbytes for p in frozen.values()) + scales
    assert weights == found.device["frozen weights"] + found.host
    assert (found.host > 0) == (memory.swapped_blocks > 0)
    trained = run.average.parameters
    assert sum(p.numel() for p in trained) == found.trained
    assert sum(p.numel() for p in model.parameters()) == found.total
    assert sum(p.nbytes for p in trained) == found.device["trained weights"]
    assert states_of(run) == found.device["optimiser states"]
    assert sum(v.nbytes for v in run.average.values.values()) == found.device["averaged weights"]


def states_of(run: TransformerRun) -> int:
    """Bytes, step counters left out."""
    states = [state for optimizer in run.optimizers for state in optimizer.state.values()]
    return sum(t.nbytes for state in states for key, t in state.items() if key != "step")


def test_states_of_muon_are_counted_to_the_byte(nano_corpus: Corpus, run_folder: Path) -> None:
    settings = replace(RECIPE.transformer, lora=None, optimizer="muon", memory=MemorySettings())
    config = TrainingConfig(WorldData(1, 1), settings, size="nano", start="tiny")
    model = PackedHunyuanVideo(SIZES["nano"].transformer)
    run = TransformerRun(model, settings, nano_corpus, run_folder)
    list(run.advance(1))
    assert states_of(run) == estimate(config).device["optimiser states"]


@pytest.mark.parametrize("lora", [False, True])
def test_activations_of_a_block_are_about_what_is_said(
    lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts what autograd saves, weights left out. A LoRA's frozen layers save less."""
    monkeypatch.setattr(attention, "_SHORT", 0)  # fused, as on a GPU
    config = HunyuanVideoConfig(
        num_attention_heads=4,
        attention_head_dim=64,
        num_layers=2,
        num_single_layers=4,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=16,
        image_proj_dim=16,
        rope_axes_dim=(16, 24, 24),
    )
    torch.manual_seed(0)
    model = PackedHunyuanVideo(config)
    if lora:
        add_lora(model, LoraTraining(rank=4), 0)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    shapes = {tuple(p.shape) for p in model.parameters()}
    weights = shapes | {shape[::-1] for shape in shapes}  # autocast's copies count apart
    storages: dict[int, int] = {}
    saved = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)  # kept alive, so that no address is used twice
        if tuple(tensor.shape) not in weights:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    side, text, pictured = 24, 40, 8
    condition = TextCondition(
        torch.randn(1, text, 32), torch.randn(1, 16), torch.randn(1, pictured, 16)
    )
    level = LevelLatents(Kernel(1, 2, 2), torch.randn(1, 16, 2, side, side), torch.arange(2)[None])
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        prepared = model.prepare(
            [level], torch.arange(9)[None], (side, side), condition, guidance_scale=10.0
        )
        noisy = torch.randn(1, 16, 9, side, side).to(model.dtype)
        model.predict(noisy, torch.tensor([500.0]).to(model.dtype), prepared)
    tokens = 11 * side * side // 4 + text + pictured
    measured = sum(storages.values()) / tokens / config.width / len(blocks_of(model))
    assert measured == pytest.approx(BYTES_PER_ACTIVATION["lora" if lora else "weights"], rel=0.1)


def test_the_released_model_fits_a_card_of_24_gib(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "framepack-i2v-lora", "--plan"]) == 0
    shown = capsys.readouterr().out
    found = estimate(RECIPE)
    assert found.total - found.trained == pytest.approx(12.87e9, rel=1e-3)
    assert f"{found.trained / 1e6:.1f} M of {found.total / 1e6:,.1f} M parameters" in shown
    assert f"{found.sum / 2**30:8.2f} GiB" in shown
    assert found.sum < 22 * 2**30
    unsaved = replace(RECIPE.transformer, memory=MemorySettings())
    assert estimate(replace(RECIPE, transformer=unsaved)).sum > 100 * 2**30


def test_gpus_share_weights_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny", "--plan", "--gpus", "4"]) == 0
    assert "on the device" in capsys.readouterr().out
    config = read_config(find_config(Path("tiny")))
    one, four = estimate(config), estimate(config, processes=4)
    assert four.trained == one.trained
    for name, size in one.device.items():
        assert four.device[name] == size // 4, name
    assert main(["train", "framepack-i2v-lora", "--plan", "--gpus", "2"]) == 2
    assert "4 examples cannot be divided among 2 processes" in capsys.readouterr().err
    with pytest.raises(InvalidRequest, match="for one process"):
        estimate(replace(RECIPE, transformer=replace(RECIPE.transformer, accumulate=1)), 2)


def test_a_run_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "framepack-i2v-lora"]) == 2
    assert "-o FOLDER" in capsys.readouterr().err


def test_the_recipe_runs_on_a_shrunken_layout(nano_corpus: Corpus, run_folder: Path) -> None:
    """Same settings, same classes, random weights: float8, swapped, recomputed, accumulated."""
    memory = replace(RECIPE.transformer.memory, swapped_blocks=1)
    run_settings = replace(
        RECIPE.transformer.run, rates=replace(RECIPE.transformer.run.rates, steps=2)
    )
    settings = replace(RECIPE.transformer, memory=memory, run=run_settings)
    torch.manual_seed(0)
    model = PackedHunyuanVideo(SIZES["nano"].transformer).bfloat16()
    run = TransformerRun(model, settings, nano_corpus, run_folder)
    *_, figures = run.advance()
    assert figures["step"] == 2
    moved = [v for name, v in run.average.values.items() if "lora_B" in name]
    assert all(values.any() for values in moved)


def test_a_missing_folder_of_videos_is_said(tmp_path: Path, nano_folder: Path) -> None:
    data = FileData(str(tmp_path / "videos"))
    config = replace(RECIPE, data=data, start=str(nano_folder))
    with pytest.raises(InvalidRequest, match="neither a folder nor"):
        list(Training(config, tmp_path / "out").run("cache"))
