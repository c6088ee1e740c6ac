"""Weights from strangers: LoRAs, checkpoints, codebooks, and what a store may hand a worker.

Whatever the bytes are, each reader says in its own error what is wrong. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framepack.drift.codebook import Codebook
from framepack.errors import WeightsError
from framepack.models.loading import INDEX, WEIGHTS, load_transformer
from framepack.models.lora import Lora, merge_lora, read_lora
from framepack.models.tiny import build_folder
from tests.hostile.containers import CONTAINERS, container, pickled, tensor
from worker.checkpoints import CheckpointError, SectionCheckpoint, conditioning_from_bytes

NAME = "transformer_blocks.0.attn.to_q"
SHAPES = {NAME: (6, 4)}
DOWN, UP = f"transformer.{NAME}.lora_A.weight", f"transformer.{NAME}.lora_B.weight"
ALPHA = f"transformer.{NAME}.alpha"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer of a nano preset, whose weights are replaced by each test."""
    place = tmp_path_factory.mktemp("nano")
    build_folder(place, size="nano")
    return place / "transformer"


Read = Callable[[bytes], object]


@pytest.fixture(params=["lora", "codebook", "transformer", "section", "conditioning"])
def read(request: pytest.FixtureRequest, tmp_path: Path, folder: Path) -> Read:
    """One of the readers, of bytes."""

    def from_file(reader: Callable[[Path], object], path: Path) -> Read:
        def written(data: bytes) -> object:
            path.write_bytes(data)
            return reader(path)

        return written

    readers: Mapping[str, Read] = {
        "lora": from_file(lambda path: read_lora(path, SHAPES), tmp_path / "x.safetensors"),
        "codebook": from_file(Codebook.load, tmp_path / "x.safetensors"),
        "transformer": from_file(lambda path: load_transformer(path.parent), folder / WEIGHTS),
        "section": SectionCheckpoint.from_bytes,
        "conditioning": conditioning_from_bytes,
    }
    return readers[request.param]


@pytest.mark.parametrize("data", [d for _, d in CONTAINERS], ids=[n for n, _ in CONTAINERS])
def test_a_file_that_is_not_what_it_claims_is_refused(read: Read, data: bytes) -> None:
    with pytest.raises((WeightsError, CheckpointError)):
        read(data)


def test_nothing_is_unpickled(read: Read, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with pytest.raises((WeightsError, CheckpointError)):
        read(pickled(witness))
    assert not witness.exists()


def lora(**changes: Tensor | None) -> dict[str, Tensor]:
    """A LoRA of rank 2, with some tensors replaced or, by None, left out."""
    whole = {
        "down": torch.ones(2, 4),
        "up": torch.ones(6, 2),
        "alpha": torch.tensor(2.0),
        **changes,
    }
    names = {"down": DOWN, "up": UP, "alpha": ALPHA}
    return {names[role]: tensor for role, tensor in whole.items() if tensor is not None}


nan, inf = float("nan"), float("inf")
LORAS: list[tuple[str, dict[str, Tensor]]] = [
    ("not a number", lora(down=torch.full((2, 4), nan))),
    ("infinity", lora(up=torch.full((6, 2), inf))),
    ("a strength that is not a number", lora(alpha=torch.tensor(nan))),
    ("infinite strength", lora(alpha=torch.tensor(inf))),
    ("several strengths", lora(alpha=torch.ones(3))),
    ("no strength", lora(alpha=torch.ones(0))),
    ("rank nought", lora(down=torch.ones(0, 4), up=torch.ones(6, 0))),
    ("a number for a matrix", lora(down=torch.tensor(1.0))),
    ("a row for a matrix", lora(up=torch.ones(6))),
    ("a kernel for a matrix", lora(down=torch.ones(2, 4, 1, 1))),
    ("integers", lora(down=torch.ones(2, 4, dtype=torch.int64))),
    ("truth values", lora(up=torch.ones(6, 2, dtype=torch.bool))),
]


@pytest.mark.parametrize("state", [s for _, s in LORAS], ids=[n for n, _ in LORAS])
def test_a_lora_of_wrong_numbers_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"x\.safetensors"):
        read_lora(path, SHAPES)


def test_a_lora_whose_product_is_no_number_is_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(lora(down=torch.full((2, 4), 3e38), up=torch.full((6, 2), 3e38)), path)
    linear = torch.nn.Linear(4, 6)
    before = linear.weight.clone()
    change = read_lora(path, SHAPES).factors[NAME]
    with pytest.raises(WeightsError, match="cannot hold"):
        merge_lora(torch.nn.Sequential(linear), Lora({"0": change}))
    assert linear.weight.equal(before)


STATED = [
    "[]",
    "7",
    "null",
    '"text"',
    "[" * 100_000,
    '{"transformer.lora_alpha": "much"}',
    '{"transformer.lora_alpha": [1]}',
    '{"transformer.lora_alpha": NaN}',
    '{"transformer.alpha_pattern": 7}',
    '{"transformer.alpha_pattern": {"%s": {}}}' % NAME,  # noqa: UP031 - braces
]


@pytest.mark.parametrize("stated", STATED, ids=range(len(STATED)))
def test_a_lora_whose_metadata_misleads_is_refused(stated: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(lora(alpha=None), path, metadata={"lora_adapter_metadata": stated})
    with pytest.raises(WeightsError, match=r"x\.safetensors"):
        read_lora(path, SHAPES)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/hostname", "a/../../x", "", 7, None])
def test_an_index_names_files_beside_it_only(folder: Path, tmp_path: Path, name: Any) -> None:
    place = tmp_path / "inner"
    place.mkdir()
    (place / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "x.safetensors").write_bytes(container({"a": tensor([1], 0, 4)}, bytes(4)))
    (place / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(WeightsError, match="files"):
        load_transformer(place)
