"""``file:///folder``: objects are files below a folder, links are signed and served by the gateway.

A file appears under its name only when it is whole and on the disk: it is written beside its place,
synced, renamed, and the folder is synced.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlencode

from service.contract.errors import ObjectNotFound, StorageError
from service.contract.storage.base import StoredObject, checked_key

_PARTIAL = ".partial-"


class FileStorage:
    """Objects as files. Implements `Storage`."""

    def __init__(self, folder: Path, public_url: str, secret: bytes) -> None:
        self.folder = folder
        self._public_url = public_url.rstrip("/")
        self._secret = secret

    @classmethod
    def open(cls, url: SplitResult, public_url: str, secret: bytes) -> FileStorage:
        """Open the folder of a ``file:///folder`` URL, making it if needed."""
        if url.netloc or not url.path.startswith("/"):
            raise StorageError("write a file storage as file:///absolute/folder")
        folder = Path(unquote(url.path))
        with _translated():
            _make_folder(folder)
        return cls(folder, public_url, secret)

    def put(self, key: str, body: bytes, content_type: str) -> None:
        """See `Storage.put`. The content type is not kept: links carry it."""
        with self._whole(key) as partial:
            partial.write_bytes(body)

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        with self._whole(key) as partial:
            shutil.copyfile(path, partial)

    def get(self, key: str) -> bytes:
        with _translated(key):
            return self.path(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        with _translated(key):
            shutil.copyfile(self.path(key), path)

    def head(self, key: str) -> StoredObject | None:
        try:
            with _translated(key):
                stat = self.path(key).stat()
        except ObjectNotFound:
            return None
        return StoredObject(key, stat.st_size, stat.st_mtime)

    def delete(self, key: str) -> None:
        with _translated():
            self.path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        parent = prefix.rpartition("/")[0]
        try:
            folder = self.path(parent) if parent else self.folder
        except ObjectNotFound:
            return
        with _translated():
            paths = [path for path in folder.rglob("*") if path.is_file()]
        keys = (str(path.relative_to(self.folder)) for path in paths)
        for key in sorted(key for key in keys if key.startswith(prefix) and _PARTIAL not in key):
            found = self.head(key)
            if found is not None:
                yield found

    def signed_url(self, key: str, *, expires_in: int, content_type: str, filename: str) -> str:
        self.path(key)
        query = {
            "expires": str(int(time.time()) + expires_in),
            "type": content_type,
            "name": filename,
        }
        query["signature"] = self._signature(key, query)
        return f"{self._public_url}/files/{quote(key)}?{urlencode(query)}"

    def verify(self, key: str, query: Mapping[str, str]) -> bool:
        """Whether the query of a link was signed for this key and has not expired."""
        expires = query.get("expires", "")
        if not re.fullmatch(r"[0-9]{1,12}", expires) or int(expires) < time.time():
            return False
        given = query.get("signature", "").encode()
        return hmac.compare_digest(self._signature(key, query).encode(), given)

    def clear_unfinished(self, older_than: float) -> int:
        begun, cleared = time.time() - older_than, 0
        with _translated():
            for partial in self.folder.rglob(f"{_PARTIAL}*"):
                try:
                    if partial.stat().st_mtime < begun:
                        partial.unlink()
                        cleared += 1
                except FileNotFoundError:
                    continue
        return cleared

    def check(self) -> None:
        with _translated():
            probe = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
            probe.write_bytes(b"1")
            probe.unlink()

    def path(self, key: str) -> Path:
        """The file of a key.

        Raises:
            ObjectNotFound: No object can have such a key.
        """
        return self.folder / checked_key(key)

    def _signature(self, key: str, query: Mapping[str, str]) -> str:
        if not self._secret:
            raise StorageError("links to files need FRAMEPACK_SIGNING_SECRET")
        signed = urlencode({name: query.get(name, "") for name in ("expires", "type", "name")})
        return hmac.new(self._secret, f"{key}?{signed}".encode(), hashlib.sha256).hexdigest()

    @contextmanager
    def _whole(self, key: str) -> Iterator[Path]:
        path = self.path(key)
        with _translated():
            _make_folder(path.parent)
            partial = path.parent / f"{_PARTIAL}{secrets.token_hex(8)}"
            try:
                yield partial
                _sync(partial)
                partial.replace(path)
                _sync(path.parent)
            finally:
                partial.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make a folder that is still there after a power cut: its name must be on the disk too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(key: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if key:
            raise ObjectNotFound(key) from error
        raise StorageError(str(error)) from error
    except OSError as error:
        raise StorageError(f"{type(error).__name__}: {error.strerror}") from error
