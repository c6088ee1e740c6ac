from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.contract.errors import LeaseLost, ObjectNotFound, StorageError
from service.contract.job import Artifact, Lane
from service.contract.storage import open_storage
from service.contract.storage.base import Storage, StoredObject
from service.contract.storage.memory_scheme import MemoryStorage
from tests.support.fleet import Fleet
from tests.worker.conftest import Claim
from worker.artifacts import Artifacts, DamagedArtifact, new_key


class Outage(MemoryStorage):
    """Fails a number of times before it works."""

    def __init__(self, failures: int) -> None:
        super().__init__({})
        self.failures = failures

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._maybe_fail()
        super().put(key, body, content_type)

    def get(self, key: str) -> bytes:
        self._maybe_fail()
        return super().get(key)

    def _maybe_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("away")


class Careless(MemoryStorage):
    """Says it stored what it did not."""

    def head(self, key: str) -> StoredObject | None:
        found = super().head(key)
        return None if found is None else StoredObject(key, found.size_bytes - 1, 0.0)


def go_on() -> None:
    """The lease is fine."""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(f"file://{tmp_path / 'storage'}")


def test_what_is_stored_is_described_and_can_be_loaded(storage: Storage) -> None:
    stored = Artifacts(storage).store("jobs/a/1.bin", b"content", "text/plain", go_on)
    assert stored == Artifact(
        key="jobs/a/1.bin",
        sha256=hashlib.sha256(b"content").hexdigest(),
        size_bytes=7,
        content_type="text/plain",
    )
    assert Artifacts(storage).load(stored, bytes.decode, go_on) == "content"


def test_a_file_is_stored_and_fetched_without_reading_it_whole(
    storage: Storage, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * (3 * 2**20 + 1))
    artifacts = Artifacts(storage)
    stored = artifacts.store_file("jobs/a/video.mp4", source, "video/mp4", go_on)
    assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    artifacts.fetch(stored, target, go_on)
    assert target.read_bytes() == source.read_bytes()


def test_other_bytes_than_were_committed_are_refused(storage: Storage, tmp_path: Path) -> None:
    stored = Artifacts(storage).store("jobs/a/1.bin", b"content", "text/plain", go_on)
    storage.put("jobs/a/1.bin", b"changed", "text/plain")
    with pytest.raises(DamagedArtifact):
        Artifacts(storage).load(stored, bytes.decode, go_on)
    with pytest.raises(DamagedArtifact):
        Artifacts(storage).fetch(stored, tmp_path / "file", go_on)


def test_an_upload_the_storage_does_not_confirm_is_none() -> None:
    with pytest.raises(DamagedArtifact):
        Artifacts(Careless({})).store("jobs/a/1.bin", b"content", "text/plain", go_on)


def test_content_is_parsed_once_and_the_oldest_is_forgotten(storage: Storage) -> None:
    artifacts = Artifacts(storage, remembered_bytes=20)
    stored = [artifacts.store(f"jobs/a/{n}.bin", b"%8d" % n, "", go_on) for n in range(3)]
    parsed: list[bytes] = []

    def parse(data: bytes) -> int:
        parsed.append(data)
        return int(data)

    assert [artifacts.load(a, parse, go_on) for a in stored[:2]] == [0, 1]
    assert artifacts.load(stored[0], parse, go_on) == 0
    assert len(parsed) == 2
    assert artifacts.load(stored[2], parse, go_on) == 2  # 24 bytes: number 1 goes
    assert artifacts.load(stored[0], parse, go_on) == 0
    assert len(parsed) == 3
    assert artifacts.load(stored[1], parse, go_on) == 1
    assert len(parsed) == 4


def test_an_outage_is_waited_out() -> None:
    artifacts = Artifacts(Outage(failures=2))
    stored = artifacts.store("jobs/a/1.bin", b"content", "text/plain", go_on)
    assert artifacts.load(stored, bytes.decode, go_on) == "content"


def test_patience_with_an_outage_ends() -> None:
    with pytest.raises(StorageError):
        Artifacts(Outage(failures=9), patience=0.3).store("jobs/a/1.bin", b"", "", go_on)


def test_waiting_ends_when_the_lease_does() -> None:
    storage = Outage(failures=9)

    def check() -> None:
        if storage.failures < 8:
            raise LeaseLost("another's")

    with pytest.raises(LeaseLost):
        Artifacts(storage).store("jobs/a/1.bin", b"", "", check)


def test_what_is_not_there_is_not_waited_for() -> None:
    missing = Artifact(key="jobs/a/1.bin", sha256="0" * 64, size_bytes=1, content_type="")
    with pytest.raises(ObjectNotFound):
        Artifacts(MemoryStorage({})).load(missing, bytes.decode, go_on)


def test_keys_carry_the_fence_and_are_never_reused(fleet: Fleet, claim: Claim) -> None:
    job_id = fleet.submit()
    task = claim(Lane.RENDER)
    keys = {new_key(task, "safetensors") for _ in range(50)}
    assert len(keys) == 50
    assert all(key.startswith(f"jobs/{job_id}/render/0-{task.fence}-") for key in keys)
