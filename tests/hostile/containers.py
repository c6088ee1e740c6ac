"""Files that claim to be safetensors, made here byte by byte: a name and the bytes."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def container(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, as an object or as its bytes, and a length that may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {"entries": tensor([2, 2], 0, 16)}


class Calls:
    """What unpickling would call."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def pickled(witness: Path) -> bytes:
    """What `torch.save` writes, with something to call in it."""
    out = io.BytesIO()
    torch.save({"entries": Calls(witness)}, out)
    return out.getvalue()


def _zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    return out.getvalue()


CONTAINERS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("seven bytes", b"\0" * 7),
    ("a length and no header", struct.pack("<Q", 100)),
    ("a header that ends early", container(GOOD)[:-5]),
    ("a header of 2^63 bytes", container(GOOD, bytes(16), 2**63)),
    ("a header of 2^64 - 1 bytes", container(GOOD, bytes(16), 2**64 - 1)),
    ("a header of 1 GB that is not there", container(GOOD, bytes(16), 2**30)),
    ("a header of nothing", container(b"")),
    ("a header that is no JSON", container(b"}{", bytes(16))),
    ("a header that is no UTF-8", container(b'{"\xff\xfe":1}', bytes(16))),
    ("a header that is a list", container([GOOD], bytes(16))),
    ("a header of lists in lists", container(b"[" * 50_000 + b"]" * 50_000)),
    ("metadata in metadata", container(b'{"__metadata__":' * 20_000 + b"1" + b"}" * 20_000)),
    ("metadata that is no text", container({"__metadata__": {"a": 1}, **GOOD}, bytes(16))),
    ("no offsets", container({"entries": {"dtype": "F32", "shape": [2, 2]}}, bytes(16))),
    ("an unknown type of data", container({"entries": tensor([2], 0, 16, "OBJ")}, bytes(16))),
    ("data that ends early", container(GOOD, bytes(15))),
    ("data behind the last tensor", container(GOOD, bytes(17))),
    ("no data at all", container(GOOD)),
    ("offsets beyond the end", container({"entries": tensor([2, 2], 0, 2**40)}, bytes(16))),
    ("offsets that go back", container({"entries": tensor([2, 2], 16, 0)}, bytes(16))),
    ("offsets below nothing", container({"entries": tensor([2, 2], -16, 0)}, bytes(16))),
    (
        "tensors that overlap",
        container({"entries": tensor([2, 2], 0, 16), "b": tensor([2, 2], 8, 24)}, bytes(24)),
    ),
    (
        "two names for the same bytes",
        container({"entries": tensor([2, 2], 0, 16), "b": tensor([2, 2], 0, 16)}, bytes(16)),
    ),
    ("a hole before the first", container({"entries": tensor([2, 2], 16, 32)}, bytes(32))),
    ("a shape larger than its data", container({"entries": tensor([2, 3], 0, 16)}, bytes(16))),
    ("a shape that overflows", container({"entries": tensor([2**33, 2**33], 0, 16)}, bytes(16))),
    ("a shape that wraps to its size", container({"entries": tensor([2**62, 4], 0, 0)})),
    ("a side below nothing", container({"entries": tensor([-2, -2], 0, 16)}, bytes(16))),
    ("half a side", container({"entries": {**GOOD["entries"], "shape": [0.5, 8]}}, bytes(16))),
    ("a zip", _zipped()),
    ("a pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."),
]
