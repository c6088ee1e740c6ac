"""``memory://name``: objects in this process, for tests. The same name is the same store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, quote

from service.contract.errors import ObjectNotFound
from service.contract.storage.base import StoredObject, checked_key

_STORES: dict[str, dict[str, tuple[bytes, float]]] = {}


class MemoryStorage:
    """Objects in a dictionary. Implements `Storage`; nothing serves its links."""

    def __init__(self, objects: dict[str, tuple[bytes, float]] | None = None) -> None:
        self._objects = {} if objects is None else objects

    @classmethod
    def open(cls, url: SplitResult) -> MemoryStorage:
        """Open the store of a name."""
        return cls(_STORES.setdefault(url.netloc, {}))

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._objects[checked_key(key)] = (body, time.time())

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        self.put(key, path.read_bytes(), content_type)

    def get(self, key: str) -> bytes:
        try:
            return self._objects[checked_key(key)][0]
        except KeyError:
            raise ObjectNotFound(key) from None

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def head(self, key: str) -> StoredObject | None:
        if key not in self._objects:
            return None
        body, modified_at = self._objects[key]
        return StoredObject(key, len(body), modified_at)

    def delete(self, key: str) -> None:
        self._objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for key in sorted(self._objects):
            found = self.head(key)
            if key.startswith(prefix) and found is not None:
                yield found

    def signed_url(self, key: str, *, expires_in: int, content_type: str, filename: str) -> str:
        return f"memory:///{quote(checked_key(key))}?expires={int(time.time()) + expires_in}"

    def clear_unfinished(self, older_than: float) -> int:
        return 0

    def check(self) -> None:
        return
