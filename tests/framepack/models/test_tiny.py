"""The built folders: layout, determinism, any prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from framepack.models.hunyuan_video import HunyuanVideoConfig
from framepack.models.loading import load_transformer
from framepack.models.text import load_tokenizer
from framepack.models.tiny import SIZES, WORDS, build_folder


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_same_seed_builds_the_same_files(nano_folder: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    build_folder(tmp_path / "again", "nano", seed=0)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    build_folder(tmp_path / "other", "nano", seed=1)
    first, again, other = map(files, (nano_folder, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert sorted(other) == sorted(first)
    changed = {name.split("/")[0] for name in first if first[name] != other[name]}
    assert changed == {"transformer", "vae", "text_encoder", "text_encoder_2", "image_encoder"}


def test_the_layout_is_that_of_the_released_models(nano_folder: Path) -> None:
    folders = {path.name for path in nano_folder.iterdir() if path.is_dir()}
    assert folders == {
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "image_encoder",
        "feature_extractor",
    }
    config = json.loads((nano_folder / "transformer" / "config.json").read_text())
    released = HunyuanVideoConfig().to_json()
    assert config.keys() == released.keys()
    assert config["_class_name"] == "HunyuanVideoTransformer3DModelPacked"


@pytest.mark.parametrize("name", SIZES)
def test_sizes_fit_together(name: str) -> None:
    config = SIZES[name].transformer
    assert sum(config.rope_axes_dim) == config.attention_head_dim
    assert all(width % SIZES[name].vae_groups == 0 for width in SIZES[name].vae_channels)


def test_tiny_is_of_the_size_a_cpu_trains() -> None:
    config = SIZES["tiny"].transformer
    assert (config.width, config.num_layers, config.num_single_layers) == (192, 2, 4)


def test_weights_are_random_everywhere(nano_folder: Path) -> None:
    """No tensor is left constant that would hide a wrong key or a dead branch."""
    model = load_transformer(nano_folder / "transformer")
    constant = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.numel() > 1 and tensor.std() == 0 and not name.endswith("norm_q.weight")
    ]
    assert all("norm" in name for name in constant), constant


def test_any_prompt_has_tokens(nano_folder: Path) -> None:
    tokenizer = load_tokenizer(nano_folder / "tokenizer")
    unknown = tokenizer.unk_token_id
    assert len(set(WORDS)) == len(WORDS)
    known = tokenizer("A RED ball slides left .")["input_ids"]
    assert unknown not in known
    assert len(known) == 8
    strange = tokenizer("a Łódź 🛶 ball")["input_ids"]
    assert strange.count(unknown) == 2
    assert strange[0] == tokenizer.bos_token_id
    assert strange[-1] == tokenizer.eos_token_id
