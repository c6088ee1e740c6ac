"""What a storage scheme offers. Every scheme passes tests/conformance/test_storage.py.

Objects are written once under keys that are never reused, and appear whole or not at all. Keys are
made of lower-case letters, digits, ``. _ - /``; no part of one is empty or starts with a dot, so
that a key can lead nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.contract.errors import ObjectNotFound

_KEY = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")
_LONGEST_KEY = 512


def checked_key(key: str) -> str:
    """The key itself.

    Raises:
        ObjectNotFound: No object can have such a key.
    """
    if len(key) > _LONGEST_KEY or not _KEY.fullmatch(key):
        raise ObjectNotFound("there is no object under such a key")
    return key


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
    """Write-once objects by key. All methods raise StorageError when the store fails.

    Methods that take a key raise ObjectNotFound where no object can have it.
    """

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

    def clear_unfinished(self, older_than: float) -> int:
        """Remove what writes that never ended left behind, and say how many those were.

        Args:
            older_than: Seconds since they began; younger ones may still be at it.
        """

    def check(self) -> None:
        """Raise StorageError unless the store can be used now."""
