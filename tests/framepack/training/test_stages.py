from pathlib import Path

import pytest
import torch

from framepack.cli import main
from framepack.errors import InvalidRequest
from framepack.models.loading import load_transformer
from framepack.training.config import read_config
from framepack.training.stages import Training

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
