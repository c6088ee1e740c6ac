"""What a storage scheme offers. Every scheme passes tests/conformance/test_storage.py.

Objects are written once under keys that are never reused, and appear whole or not at all. Keys are
made of lower-case letters, digits, ``. _ - /`` and never come from users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """What a listing or a head request tells.

    Attributes:
        key: Storage key.
        size_bytes: Number of bytes.
        modified_at: Seconds since the epoch, on the storage's clock.
    """

    key: str
    size_bytes: int
    modified_at: float


class Storage(Protocol):
    """Write-once objects by key. All methods raise StorageError when the store fails."""

    def put(self, key: str, body: bytes, content_type: str) -> None:
        """Store bytes, durably, before returning."""

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        """Store a file without reading it into memory."""

    def get(self, key: str) -> bytes:
        """The bytes of an object. Raises ObjectNotFound."""

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a file. Raises ObjectNotFound."""

    def head(self, key: str) -> StoredObject | None:
        """The object's size and time, or None if there is none."""

    def delete(self, key: str) -> None:
        """Remove an object; removing none is no error."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key starts with the prefix, by key."""

    def signed_url(self, key: str, *, expires_in: int, content_type: str, filename: str) -> str:
        """A URL that GETs the object without credentials until it expires (seconds)."""

    def check(self) -> None:
        """Raise StorageError unless the store can be written and read now."""
