"""Checkpoints from disk: whole, straight to the dtype asked for, plain about what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from framepack.errors import WeightsError
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.loading import (
    INDEX,
    WEIGHTS,
    files_sha256,
    load_transformer,
    save_transformer,
)

NARROW = HunyuanVideoConfig(
    num_attention_heads=1,
    attention_head_dim=8,
    text_embed_dim=8,
    pooled_projection_dim=8,
    image_proj_dim=8,
    rope_axes_dim=(4, 2, 2),
    mlp_ratio=1.0,
)
"""All layers of the released models at the smallest width: 1274 tensors."""


@pytest.fixture(scope="module")
def model() -> PackedHunyuanVideo:
    torch.manual_seed(0)
    return PackedHunyuanVideo(NARROW)


@pytest.fixture
def folder(model: PackedHunyuanVideo, tmp_path: Path) -> Path:
    save_transformer(model, tmp_path)
    return tmp_path


def shard(folder: Path, count: int = 3) -> None:
    """Split a checkpoint as the hub's are."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map: dict[str, str] = {}
    for i in range(count):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-{count:05}.safetensors"
        part = dict(list(tensors.items())[i::count])
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_all_tensors_come_back(model: PackedHunyuanVideo, folder: Path) -> None:
    found = load_transformer(folder).state_dict()
    expected = model.state_dict()
    assert len(expected) == 1274
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_sharded_checkpoint_is_the_same(model: PackedHunyuanVideo, folder: Path) -> None:
    shard(folder)
    found = load_transformer(folder).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_the_dtype_asked_for(folder: Path) -> None:
    loaded = load_transformer(folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def change(folder: Path, remove: str | None = None, add: str | None = None) -> None:
    tensors = load_file(folder / WEIGHTS)
    if remove:
        del tensors[remove]
    if add:
        tensors[add] = torch.zeros(1)
    save_file(tensors, folder / WEIGHTS)


def test_missing_and_unexpected_tensors_are_listed(folder: Path) -> None:
    change(folder, remove="clean_x_embedder.proj_4x.weight", add="what.is.this")
    with pytest.raises(WeightsError) as caught:
        load_transformer(folder)
    message = str(caught.value)
    assert "missing tensors: (1) clean_x_embedder.proj_4x.weight" in message
    assert "unexpected tensors: (1) what.is.this" in message


def test_mis_shaped_tensors_are_listed(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["proj_out.bias"] = torch.zeros(3)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(WeightsError, match=r"proj_out\.bias: \[3\] instead of \[64\]"):
        load_transformer(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder)
    gone = "diffusion_pytorch_model-00002-of-00003.safetensors"
    (folder / gone).unlink()
    with pytest.raises(WeightsError, match=gone):
        load_transformer(folder)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_a_damaged_file_is_named(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(WeightsError, match=WEIGHTS):
        load_transformer(folder)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_transformer(tmp_path)


def test_a_larger_kernel_is_part_of_the_layout(tmp_path: Path) -> None:
    from framepack.packing.schedule import Kernel

    config = replace(NARROW, kernels=(*NARROW.kernels, Kernel(8, 16, 16)))
    save_transformer(PackedHunyuanVideo(config), tmp_path)
    assert load_transformer(tmp_path).config == config


MEASURE = """
import sys, torch
from pathlib import Path
from framepack.models.loading import load_transformer

def memory(key):
    line = next(l for l in open("/proc/self/status") if l.startswith(key))
    return int(line.split()[1]) * 1024

whole = []
def load(folder):
    if "twice" in sys.argv:  # the control: what the measure says of a loader that holds all first
        from safetensors.torch import load_file
        for path in sorted(folder.glob("*.safetensors")):
            whole.append({name: t.clone() for name, t in load_file(path).items()})
    return load_transformer(folder, dtype=torch.bfloat16)

Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = memory("VmRSS")
model = load(Path(sys.argv[1]))
size = sum(p.numel() * p.element_size() for p in model.parameters())
print((memory("VmHWM") - before) / size)
"""


def peak_of_loading(*arguments: str) -> float:
    """Peak memory in a process of its own, in sizes of the loaded model."""
    command = [sys.executable, "-c", MEASURE, *arguments]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_no_second_copy_is_held(tmp_path: Path) -> None:
    """An fp32 file of 400 MB into bf16: never both whole, let alone a third."""
    wide = replace(NARROW, attention_head_dim=320, rope_axes_dim=(64, 128, 128))
    save_transformer(PackedHunyuanVideo(replace(wide, mlp_ratio=4.0)), tmp_path)
    shard(tmp_path, count=8)
    # One of the model, plus a shard's pages that the kernel has mapped: an eighth of two.
    assert 0.9 < peak_of_loading(str(tmp_path)) < 2
    assert peak_of_loading(str(tmp_path), "twice") > 3


class TestHash:
    def test_changes_with_content_and_names(self, folder: Path) -> None:
        first = files_sha256(folder)
        assert files_sha256(folder) == first
        (folder / "config.json").rename(folder / "settings.json")
        assert files_sha256(folder) != first

    def test_remembers_by_size_and_time(self, folder: Path, tmp_path: Path) -> None:
        cache = tmp_path / "hashes"
        first = files_sha256(folder, cache)
        assert files_sha256(folder, cache) == first == files_sha256(folder)
        change(folder, add="another")
        assert files_sha256(folder, cache) != first
