"""A codebook from a folder of data, by the command line."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from framepack.cli import main
from framepack.drift.codebook import Codebook
from framepack.errors import InvalidRequest
from framepack.presets import load_preset
from framepack.training.codebooks import latent_files, read_latents


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pictures, a video of 70 frames, latents, and files that are none of these."""
    folder = tmp_path / "data"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "more/b.jpg"):
        Image.fromarray(rng.integers(0, 256, (70, 64, 3), dtype=np.uint8)).save(folder / name)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(70):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    save_file({"latents": torch.randn(16, 3, 8, 8).half()}, folder / "cached.safetensors")
    save_file({"text": torch.zeros(2)}, folder / "other.safetensors")
    (folder / "notes.txt").write_text("nothing")
    return folder


def fit(data: Path, output: Path, nano_folder: Path, *options: str) -> int:
    fixed = ["codebook", "fit", str(data), "-o", str(output), "--weights", str(nano_folder)]
    return main([*fixed, "--device", "cpu", *options])


def test_a_folder_becomes_a_codebook(
    data: Path, nano_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again, other = (tmp_path / f"{n}.safetensors" for n in ("first", "again", "other"))
    assert fit(data, first, nano_folder, "-K", "9") == 0
    assert capsys.readouterr().out == f"{first}: 9 entries from 6 clips\n"
    fit(data, again, nano_folder, "-K", "9")
    fit(data, other, nano_folder, "-K", "9", "--seed", "1")
    entries = [Codebook.load(path).entries for path in (first, again, other)]
    assert entries[0].shape == (9, 16)
    assert torch.equal(entries[0], entries[1])
    assert not torch.equal(entries[0], entries[2])


def test_videos_are_cut_into_clips_and_pictures_are_one_frame(
    data: Path, nano_folder: Path, tmp_path: Path
) -> None:
    models = load_preset("tiny", nano_folder, "cpu")
    lengths = [read_latents(p).shape[2] for p in latent_files(data, models, tmp_path)]
    assert lengths == [3, 1, 9, 9, 1, 1], "cached; a.png; 33, 33 and 1 of 70 frames; b.jpg"


def test_one_entry_is_the_mean_of_all(nano_folder: Path, tmp_path: Path) -> None:
    """K = 1: history becomes one colour, and nothing can drift."""
    latents = torch.randn(16, 4, 8, 8)
    save_file({"latents": latents}, tmp_path / "data.safetensors")
    output = tmp_path / "one.safetensors"
    assert fit(tmp_path / "data.safetensors", output, nano_folder, "-K", "1") == 0
    mean = latents.flatten(1).mean(1)
    torch.testing.assert_close(Codebook.load(output).entries[0], mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("-K", "0"), "size: must be at least 1"),
        (("-K", "999"), "fewer entries"),
        (("--passes", "0"), "passes: must be at least 1"),
    ],
)
def test_what_cannot_be_fitted_says_why(
    nano_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    complaint: str,
) -> None:
    save_file({"latents": torch.randn(16, 1, 8, 8)}, tmp_path / "data.safetensors")
    assert fit(tmp_path, tmp_path / "out.safetensors", nano_folder, *options) == 2
    assert complaint in capsys.readouterr().err


def test_a_folder_without_data_is_refused(nano_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    models = load_preset("tiny", nano_folder, "cpu")
    with pytest.raises(InvalidRequest, match="no videos, no pictures"):
        latent_files(tmp_path / "empty", models, tmp_path)
