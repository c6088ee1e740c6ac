"""Committed bytes, fetched and checked; new bytes, uploaded and checked.

The record vouches for an artifact's key and sha256, so whatever arrives is compared with it. What
was read or made here stays in a small memory, by its sha256: the next section mostly needs what
this process has just made.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from service.contract.errors import ObjectNotFound, StorageError
from service.contract.job import Artifact
from service.contract.record import Task
from service.contract.storage.base import Storage
from service.contract.tracing import part

T = TypeVar("T")

Check = Callable[[], None]
"""Called between tries; raises when the work should end, see `worker.lease.Lease.check`."""

REMEMBERED_BYTES = 128 * 2**20
"""A section of the released models is about 4 MiB, a conditioning about 10."""

PATIENCE_SECONDS = 120.0
LONGEST_PAUSE = 5.0
_CHUNK = 2**20


class DamagedArtifact(StorageError):  # noqa: N818
    """The storage gave other bytes than were committed."""


@dataclass(frozen=True)
class _Remembered:
    value: object
    num_bytes: int


class Artifacts:
    """The artifacts of jobs in a storage.

    Args:
        storage: Where they lie.
        remembered_bytes: How much to keep in memory.
        patience: Seconds to go on trying while the storage fails, before the task fails.
    """

    def __init__(
        self,
        storage: Storage,
        remembered_bytes: int = REMEMBERED_BYTES,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._storage = storage
        self._capacity = remembered_bytes
        self._patience = patience
        self._memory: OrderedDict[str, _Remembered] = OrderedDict()

    def load(self, artifact: Artifact, parse: Callable[[bytes], T], check: Check) -> T:
        """An artifact's content, from memory or from the storage.

        Args:
            artifact: As committed.
            parse: Bytes to content; always the same for the same artifact.
            check: Of the lease.

        Raises:
            StorageError: It cannot be had, or is not what was committed.
        """
        if artifact.sha256 in self._memory:
            self._memory.move_to_end(artifact.sha256)
            value: T = self._memory[artifact.sha256].value  # type: ignore[assignment]
            return value
        data = self.read(artifact, check)
        value = parse(data)
        self.remember(artifact, value, len(data))
        return value

    def read(self, artifact: Artifact, check: Check) -> bytes:
        """An artifact's bytes, which are not remembered. Raises StorageError."""
        with part("fetch"):
            data = self._patiently(lambda: self._storage.get(artifact.key), check)
            _compare(artifact, hashlib.sha256(data).hexdigest())
        return data

    def fetch(self, artifact: Artifact, path: Path, check: Check) -> None:
        """Write an artifact to a file without holding it in memory. Raises StorageError."""
        self._patiently(lambda: self._storage.get_file(artifact.key, path), check)
        _compare(artifact, file_sha256(path))

    def store(self, key: str, data: bytes, content_type: str, check: Check) -> Artifact:
        """Upload bytes. Returns when the storage has them. Raises StorageError."""
        self._patiently(lambda: self._storage.put(key, data, content_type), check)
        return self._stored(key, hashlib.sha256(data).hexdigest(), len(data), content_type, check)

    def store_file(self, key: str, path: Path, content_type: str, check: Check) -> Artifact:
        """Upload a file. Returns when the storage has it. Raises StorageError."""
        self._patiently(lambda: self._storage.put_file(key, path, content_type), check)
        size = path.stat().st_size
        return self._stored(key, file_sha256(path), size, content_type, check)

    def remember(self, artifact: Artifact, value: object, num_bytes: int) -> None:
        """Keep content that was just made or read; what was not used longest goes."""
        self._memory[artifact.sha256] = _Remembered(value, num_bytes)
        self._memory.move_to_end(artifact.sha256)
        while sum(kept.num_bytes for kept in self._memory.values()) > self._capacity:
            self._memory.popitem(last=False)

    def forget(self) -> None:
        """Give the memory back."""
        self._memory.clear()

    def _stored(
        self, key: str, sha256: str, size: int, content_type: str, check: Check
    ) -> Artifact:
        """The artifact, once the storage confirms that it is there and whole."""
        found = self._patiently(lambda: self._storage.head(key), check)
        if found is None or found.size_bytes != size:
            raise DamagedArtifact(f"{key} is not in the storage as it was uploaded")
        return Artifact(key=key, sha256=sha256, size_bytes=size, content_type=content_type)

    def _patiently(self, operation: Callable[[], T], check: Check) -> T:
        """Try again while the storage fails: an outage should not cost the section its attempts."""
        end, pause = time.monotonic() + self._patience, 0.2
        while True:
            check()
            try:
                return operation()
            except ObjectNotFound:
                raise
            except StorageError:
                if time.monotonic() + pause > end:
                    raise
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


def new_key(task: Task, suffix: str) -> str:
    """A storage key for a task's result that no other attempt ever uses."""
    name = f"{task.number}-{task.fence}-{secrets.token_hex(4)}.{suffix}"
    if task.kind == "finish":
        return f"jobs/{task.job_id}/video-{name.partition('-')[2]}"
    return f"jobs/{task.job_id}/{task.lane}/{name}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _compare(artifact: Artifact, sha256: str) -> None:
    if sha256 != artifact.sha256:
        raise DamagedArtifact(f"{artifact.key} is not what was committed")
