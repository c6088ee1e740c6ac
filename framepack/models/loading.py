"""Checkpoints from disk straight to a device, in the dtype asked for.

Modules are built without memory (the meta device) and each tensor is read, cast and placed on its
own, so nothing holds a second copy of the model. Only safetensors are read: no pickle, no code from
weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from framepack.errors import WeightsError
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
CONFIG = "config.json"


def load_transformer(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PackedHunyuanVideo:
    """Load a packed transformer from a folder with config.json and one or more safetensors files.

    Raises:
        WeightsError: Files are missing or damaged, or tensors missing, unexpected or mis-shaped;
            the
            message lists them.
    """
    config = HunyuanVideoConfig.from_json(read_json(folder / CONFIG))
    with torch.device("meta"):
        model = PackedHunyuanVideo(config)
    load_weights(model, folder, device, dtype)
    return model.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class Differences:
    """How a checkpoint's files may differ from the module that they fill.

    Attributes:
        may_lack: Beginnings of names that the files need not have; they stay as they are.
        renamed: A file's names that the module has under others.
        kept_fp32: Parts of names of tensors loaded as fp32 whatever the dtype.
    """

    may_lack: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    kept_fp32: tuple[str, ...] = ()


EXACTLY = Differences()


def load_weights(
    model: nn.Module,
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    differences: Differences = EXACTLY,
) -> None:
    """Fill a module, on the meta device if nothing may lack, from a folder's safetensors files.

    Args:
        model: To fill.
        folder: With the files.
        device: To load to.
        dtype: To load as.
        differences: What may differ between the files and the module.

    Raises:
        WeightsError: See `load_transformer`.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files = dict(_tensor_files(folder))
    stored = {differences.renamed.get(name, name): name for name in files}
    found = {name: files[stored[name]] for name in stored}
    missing = {n for n in expected.keys() - found.keys() if not n.startswith(differences.may_lack)}
    _check_names(missing, found.keys() - expected.keys(), folder)
    wrong = []
    for path in sorted(set(found.values())):
        state: dict[str, Tensor] = {}
        with _open(path) as file:
            for name in (name for name in found if found[name] == path):
                shape = tuple(file.get_slice(stored[name]).get_shape())
                if shape != expected[name]:
                    wrong.append(f"{name}: {list(shape)} instead of {list(expected[name])}")
                    continue
                kept = any(part in name for part in differences.kept_fp32)
                tensor = file.get_tensor(stored[name])
                state[name] = tensor.to(device=device, dtype=torch.float32 if kept else dtype)
        model.load_state_dict(state, strict=False, assign=True)
    if wrong:
        raise WeightsError(f"{folder}: mis-shaped tensors: {_listed(wrong)}")


class _Saved(Protocol):
    @property
    def config(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...


def save_transformer(model: _Saved, folder: Path) -> None:
    """Write a folder that the loader of a packed transformer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(model.config.to_json(), indent=2) + "\n")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def replace_tensors(
    folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a checkpoint's folder anew, as one file, with some tensors replaced."""
    files = sorted(folder.glob("*.safetensors"))
    kept = {name: tensor for path in files for name, tensor in load_file(path).items()}
    partial = folder / f"{WEIGHTS}.partial"
    save_file({**kept, **tensors}, partial, metadata=dict(metadata))
    for path in (folder / INDEX, *files):  # one file is replaced at once, never absent
        if path.name != WEIGHTS:
            path.unlink(missing_ok=True)
    partial.replace(folder / WEIGHTS)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        WeightsError: There is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return content


def _tensor_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Which file holds each tensor: by the index of a sharded checkpoint, else by looking."""
    index = folder / INDEX
    if index.exists():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict):
            raise WeightsError(f"{index} has no weight_map")
        if not all(isinstance(name, str) and Path(name).name == name for name in listed.values()):
            raise WeightsError(f"{index} must name files beside it")
        absent = sorted({name for name in listed.values() if not (folder / name).is_file()})
        if absent:
            raise WeightsError(f"{folder}: missing files: {_listed(absent)}")
        paths = sorted({folder / name for name in listed.values()})
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder} holds no safetensors file")
    for path in paths:
        with _open(path) as file:
            yield from ((name, path) for name in file.keys())  # noqa: SIM118 - no dict


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error


def _check_names(missing: set[str], unexpected: set[str], folder: Path) -> None:
    parts = []
    if missing:
        parts.append(f"missing tensors: {_listed(sorted(missing))}")
    if unexpected:
        parts.append(f"unexpected tensors: {_listed(sorted(unexpected))}")
    if parts:
        raise WeightsError(f"{folder}: " + "; ".join(parts))


def _listed(names: list[str]) -> str:
    return f"({len(names)}) " + ", ".join(names)


def files_sha256(folder: Path, cache: Path | None = None) -> str:
    """One hash over all weight and configuration files below a folder, by name and content.

    Args:
        folder: A checkpoint.
        cache: A folder that remembers hashes by path, size and time, since reading 40 GB takes a
            minute.
    """
    digest = hashlib.sha256()
    suffixes = {".safetensors", ".json", ".txt"}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in suffixes):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(path, cache)))
    return digest.hexdigest()


def file_sha256(path: Path, cache: Path | None = None) -> str:
    """Hash of a file, remembered as in `files_sha256`."""
    stat = path.stat()
    identity = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    note = None if cache is None else cache / hashlib.sha256(identity.encode()).hexdigest()
    if note is not None and note.is_file():
        return note.read_text()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_text(found)
        partial.replace(note)
    return found
