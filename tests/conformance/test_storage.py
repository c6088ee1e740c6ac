"""What every storage scheme promises. A new scheme is picked up from `SCHEMES` by itself."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import boto3
import httpx
import pytest

from service.contract.errors import ObjectNotFound, StorageError
from service.contract.storage import SCHEMES, LinkSigning, Storage, open_storage
from service.contract.storage.file_scheme import FileStorage
from service.contract.storage.s3_scheme import S3Storage
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


def test_listings_are_sorted_by_key_not_by_folder(storage: Storage) -> None:
    keys = ["jobs/b-1/1", "jobs/b.c", "jobs/b/2", "jobs/b0"]
    for key in reversed(keys):
        storage.put(key, b"1", "text/plain")
    assert [found.key for found in storage.list("jobs/")] == keys
    assert [found.key for found in storage.list("")] == keys


@pytest.mark.parametrize(
    "key", ["../out", "/etc/passwd", "a/../../b", "a//b", ".a", "", "a\n", "Ä"]
)
def test_a_key_leads_nowhere_else(storage: Storage, key: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"1")
    for call in (
        lambda: storage.put(key, b"1", "text/plain"),
        lambda: storage.put_file(key, tmp_path / "in", "text/plain"),
        lambda: storage.get(key),
        lambda: storage.get_file(key, tmp_path / "out"),
        lambda: storage.signed_url(key, expires_in=9, content_type="a/b", filename="a"),
    ):
        with pytest.raises(ObjectNotFound):
            call()
    assert storage.head(key) is None
    assert list(storage.list("../")) == []
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["in"]


def test_a_reader_sees_the_old_or_the_new_object_whole(storage: Storage) -> None:
    bodies = [bytes([n]) * 300_000 for n in range(2)]
    storage.put(KEY, bodies[0], "video/mp4")

    def write() -> None:
        for n in range(8):
            storage.put(KEY, bodies[n % 2], "video/mp4")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = 0
        while not writing.done() or not seen:
            assert storage.get(KEY) in bodies
            seen += 1
        writing.result()


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

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("X-Amz-Signature", "0" * 64),
            ("X-Amz-Expires", "600000"),
            ("X-Amz-Credential", "other:user/20260101/us-east-1/s3/aws4_request"),
            ("response-content-type", "text/html"),
        ],
    )
    def test_a_changed_link_opens_nothing(self, storage: Storage, name: str, value: str) -> None:
        parts = urlsplit(self.url(storage))
        query = {**dict(parse_qsl(parts.query)), name: value}
        answer = httpx.get(parts._replace(query=urlencode(query)).geturl())
        assert answer.status_code in (400, 403)
        assert b"the video" not in answer.content

    def test_without_a_signature_nothing_opens(self, storage: Storage) -> None:
        assert httpx.get(self.url(storage).partition("?")[0]).status_code in (400, 403)

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


def test_what_a_write_left_that_never_ended_is_cleared(storage: Storage) -> None:
    storage.put(KEY, b"whole", "video/mp4")
    left = 0
    if isinstance(storage, FileStorage):
        (storage.path(KEY).parent / ".partial-0").write_bytes(b"ha")
        left = 1
    if isinstance(storage, S3Storage):
        storage._client.create_multipart_upload(
            Bucket=storage._bucket, Key=storage._prefix + "jobs/0123/video.mp4"
        )
        left = 1
    assert storage.clear_unfinished(3600) == 0
    assert storage.clear_unfinished(-60) == left
    assert storage.clear_unfinished(-60) == 0
    assert storage.get(KEY) == b"whole"
