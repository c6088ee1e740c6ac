"""What every storage scheme promises. A new scheme is picked up from `SCHEMES` by itself."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import httpx
import pytest

from service.contract.errors import ObjectNotFound, StorageError
from service.contract.storage import SCHEMES, LinkSigning, Storage, open_storage
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift

KEY = "jobs/0123/deliver/0-1-abcd.mp4"


def _memory(request: pytest.FixtureRequest) -> str:
    return f"memory://{uuid.uuid4().hex}"


def _file(request: pytest.FixtureRequest) -> str:
    return f"file://{request.getfixturevalue('tmp_path')}/store"


def _s3(request: pytest.FixtureRequest) -> str:
    swift: Swift = request.getfixturevalue("swift")
    bucket = f"b{time.monotonic_ns()}"
    boto3.client("s3", endpoint_url=swift.endpoint, region_name=REGION).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix?endpoint={swift.endpoint}&region={REGION}"


URLS: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "memory": _memory,
    "file": _file,
    "s3": _s3,
}


@pytest.fixture(params=sorted(SCHEMES))
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    url = URLS[request.param](request)
    return open_storage(url, LinkSigning("http://127.0.0.1:1", b"a secret"))


def test_bytes_come_back(storage: Storage) -> None:
    storage.put(KEY, b"some bytes", "video/mp4")
    assert storage.get(KEY) == b"some bytes"


def test_files_come_back(storage: Storage, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4096
    (tmp_path / "in").write_bytes(body)
    storage.put_file(KEY, tmp_path / "in", "video/mp4")
    storage.get_file(KEY, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.put(KEY, b"", "text/plain")
    assert storage.get(KEY) == b""


def test_what_is_not_there_is_said_so(storage: Storage, tmp_path: Path) -> None:
    assert storage.head(KEY) is None
    with pytest.raises(ObjectNotFound):
        storage.get(KEY)
    with pytest.raises(ObjectNotFound):
        storage.get_file(KEY, tmp_path / "out")


def test_head_tells_size_and_time(storage: Storage) -> None:
    before = time.time()
    storage.put(KEY, b"12345", "text/plain")
    found = storage.head(KEY)
    assert found is not None
    assert (found.key, found.size_bytes) == (KEY, 5)
    assert before - 5 < found.modified_at < time.time() + 5


def test_an_object_can_be_replaced(storage: Storage) -> None:
    storage.put("jobs/1/progress.json", b"old and longer", "application/json")
    storage.put("jobs/1/progress.json", b"new", "application/json")
    assert storage.get("jobs/1/progress.json") == b"new"


def test_deleting_is_repeatable(storage: Storage) -> None:
    storage.put(KEY, b"1", "text/plain")
    storage.delete(KEY)
    storage.delete(KEY)
    assert storage.head(KEY) is None


def test_listing_is_by_prefix_and_sorted(storage: Storage) -> None:
    for key in ("jobs/b/2", "jobs/b/10", "jobs/a/1", "jobs/bb/1"):
        storage.put(key, b"1", "text/plain")
    assert [found.key for found in storage.list("jobs/b/")] == ["jobs/b/10", "jobs/b/2"]
    assert [found.key for found in storage.list("jobs/b")] == [
        "jobs/b/10",
        "jobs/b/2",
        "jobs/bb/1",
    ]
    assert list(storage.list("nothing/")) == []


def test_a_store_that_works_passes_its_check(storage: Storage) -> None:
    storage.check()


def test_a_link_names_no_credentials(storage: Storage) -> None:
    url = storage.signed_url(KEY, expires_in=60, content_type="video/mp4", filename="a.mp4")
    assert SECRET_KEY not in url
    assert "secret" not in url


def test_unknown_schemes_are_refused_with_the_known_ones() -> None:
    with pytest.raises(StorageError, match="file://"):
        open_storage("ftp://host/folder")


class TestS3Links:
    """Links that the store itself serves and checks."""

    @pytest.fixture
    def storage(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        return open_storage(_s3(request))

    def url(self, storage: Storage, expires_in: int = 60) -> str:
        storage.put(KEY, b"the video", "application/octet-stream")
        return storage.signed_url(
            KEY, expires_in=expires_in, content_type="video/mp4", filename="a.mp4"
        )

    def test_a_link_gets_the_object_with_its_type(self, storage: Storage) -> None:
        answer = httpx.get(self.url(storage))
        assert (answer.status_code, answer.content) == (200, b"the video")
        assert answer.headers["content-type"] == "video/mp4"
        assert answer.headers["content-disposition"] == 'inline; filename="a.mp4"'

    def test_a_link_is_for_its_key_only(self, storage: Storage) -> None:
        url = self.url(storage)
        storage.put("jobs/0123/deliver/1-1-abcd.mp4", b"another's", "video/mp4")
        assert httpx.get(url.replace("/0-1-", "/1-1-")).status_code == 403

    def test_a_link_reads_only(self, storage: Storage) -> None:
        assert httpx.put(self.url(storage), content=b"mine").status_code == 403
        assert storage.get(KEY) == b"the video"

    def test_a_link_expires(self, storage: Storage) -> None:
        url = self.url(storage, expires_in=1)
        time.sleep(2.1)
        assert httpx.get(url).status_code == 403

    def test_a_missing_bucket_fails_the_check(self, swift: Swift, storage: Storage) -> None:
        other = open_storage(f"s3://nobody?endpoint={swift.endpoint}&region={REGION}")
        with pytest.raises(StorageError):
            other.check()
        with pytest.raises(StorageError):
            other.put(KEY, b"1", "text/plain")
