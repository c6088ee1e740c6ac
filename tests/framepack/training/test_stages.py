import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from framepack.cli import main
from framepack.errors import InvalidRequest
from framepack.models.loading import WEIGHTS, load_transformer
from framepack.presets import load_preset
from framepack.training.config import read_config
from framepack.training.stages import Training
from framepack.training.starts import NEW_LAYERS

NEW_BIAS = "clean_x_embedder.proj_4x.bias"

NANO = """
size: nano
data: {clips: 2, held_out: 1, latent_frames: 19}
transformer:
  run: {rates: {steps: 3, warmup: 1}, report_every: 1, bfloat16: false, average: 0.5}
  arms: [{name: inverted, order: inverted, share: 1}]
  batch: 2
  held_out_batch: 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nano.yaml"
    path.write_text(NANO)
    return path


def test_one_command_trains_in_slices_and_leaves_a_preset(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    threads = torch.get_num_threads()
    try:
        command = ["train", str(config), "-o", str(folder)]
        assert main([*command, "--steps", "2"]) == 0
        first = load_transformer(folder / "weights" / "transformer")
        assert main(command) == 0
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in shown] == [
        "cache: encoded 3",
        "transformer: step 1",
        "transformer: step 2",
        "cache: encoded 0",
        "transformer: step 3",
    ]
    last = load_transformer(folder / "weights" / "transformer")
    assert not torch.equal(first.proj_out.weight, last.proj_out.weight)


def test_stages_know_what_they_need(config: Path, tmp_path: Path) -> None:
    training = Training(read_config(config), tmp_path / "out")
    with pytest.raises(InvalidRequest, match="'cache' first"):
        list(training.run("transformer"))
    with pytest.raises(InvalidRequest, match="choose from codec, cache, transformer"):
        list(training.run("sample"))


def test_a_training_goes_on_from_a_preset_folder(
    config: Path, tmp_path: Path, nano_folder: Path
) -> None:
    config.write_text(NANO + f"start: {nano_folder}\n")
    training = Training(read_config(config), tmp_path / "out")
    training.prepare()
    files = [path.relative_to(nano_folder) for path in nano_folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for file in files:
        assert (training.weights / file).read_bytes() == (nano_folder / file).read_bytes()


def test_a_start_must_be_a_preset_folder(config: Path, tmp_path: Path) -> None:
    config.write_text(NANO + f"start: {tmp_path}\n")
    with pytest.raises(InvalidRequest, match="not a preset's folder"):
        Training(read_config(config), tmp_path / "out").prepare()


def test_a_codebook_is_fitted_to_the_clips_once(config: Path, tmp_path: Path) -> None:
    discretised = "history: {change: codebook, entries: 4}"
    config.write_text(NANO.replace("share: 1}", f"share: 1, {discretised}}}"))
    training = Training(read_config(config), tmp_path / "out")
    list(training.run(steps=1))
    (path,) = (tmp_path / "out").glob("codebook-4-*.safetensors")
    written = path.stat().st_mtime_ns
    book = training.corpora().load().codebooks[4]
    assert book.entries.shape == (4, 16)
    assert path.stat().st_mtime_ns == written
    codebook = load_preset("tiny", training.weights, "cpu").codebook
    assert codebook is not None
    assert torch.equal(codebook.entries, book.entries)


def test_a_base_without_packing_becomes_a_packed_one(
    config: Path, tmp_path: Path, nano_folder: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(nano_folder, base)
    stated = json.loads((base / "transformer" / "config.json").read_text())
    stated["has_clean_x_embedder"] = False
    (base / "transformer" / "config.json").write_text(json.dumps(stated))
    tensors = load_file(base / "transformer" / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(NEW_LAYERS)}
    save_file(kept, base / "transformer" / WEIGHTS)
    config.write_text(NANO + f"  train: new_layers\nstart: {base}\n")
    training = Training(read_config(config), tmp_path / "out")
    list(training.run(steps=1))
    list(training.run())
    assert [path.name for path in (training.weights / "transformer").glob("*.saf*")] == [WEIGHTS]
    trained = load_transformer(training.weights / "transformer").state_dict()
    for name, tensor in kept.items():
        assert torch.equal(trained[name], tensor), name
    assert torch.equal(trained[NEW_BIAS], trained[NEW_BIAS].bfloat16().float())
    assert trained["clean_x_embedder.proj.weight"].any()
    assert trained["image_projection.down.weight"].any()
