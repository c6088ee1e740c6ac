"""What the S3 scheme does about a store that refuses, resets, answers half or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from service.contract.errors import StorageError
from service.contract.storage import Storage, open_storage
from service.contract.storage.s3_scheme import S3Storage
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift
from tests.support.valkey import free_port

BUCKET = "faults"
KEY = "jobs/1/deliver/0-1-abcd.mp4"
BODY = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture(scope="module")
def direct(swift: Swift) -> Any:
    """A client of the store itself, with a bucket there."""
    client = boto3.client(
        "s3",
        endpoint_url=swift.endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def store(swift: Swift) -> Iterator[FaultyStore]:
    with FaultyStore(swift.ports["proxy"]) as store:
        yield store


@pytest.fixture
def storage(store: FaultyStore, direct: Any) -> Storage:
    return open_storage(f"s3://{BUCKET}?endpoint=http://127.0.0.1:{store.port}&region={REGION}")


@pytest.mark.parametrize("fault", ["refuse", "reset", "lose"])
def test_an_upload_gets_through(storage: Storage, store: FaultyStore, fault: Fault) -> None:
    store.plan("PUT", fault)
    storage.put(KEY, BODY, "video/mp4")
    assert store.happened == [fault]
    assert storage.get(KEY) == BODY


@pytest.mark.parametrize("fault", ["refuse", "reset", "lose", "truncate"])
def test_a_download_is_whole_or_tried_again(
    storage: Storage, store: FaultyStore, fault: Fault, tmp_path: Path
) -> None:
    storage.put(KEY, BODY, "video/mp4")
    store.plan("GET", fault)
    assert storage.get(KEY) == BODY
    store.plan("GET", fault)
    storage.get_file(KEY, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY
    assert store.happened == [fault, fault]


def test_bodies_that_always_end_early_are_an_error(storage: Storage, store: FaultyStore) -> None:
    storage.put(KEY, BODY, "video/mp4")
    for _ in range(9):
        store.plan("GET", "truncate")
    with pytest.raises(StorageError):
        storage.get(KEY)


def test_an_upload_the_store_lost_is_not_taken_for_done(direct: Any) -> None:
    """Acknowledged, then not there: the HEAD after the upload finds out."""

    def forget(**_: object) -> None:
        direct.delete_object(Bucket=BUCKET, Key=KEY)

    client = boto3.client("s3", endpoint_url=direct.meta.endpoint_url, region_name=REGION)
    client.meta.events.register("after-call.s3.PutObject", forget)
    with pytest.raises(StorageError, match="does not have it whole"):
        S3Storage(client, BUCKET).put(KEY, BODY, "video/mp4")


def test_large_files_go_in_parts(storage: Storage, tmp_path: Path) -> None:
    body = bytes(range(256)) * (9 << 12)
    (tmp_path / "in").write_bytes(body)
    storage.put_file(KEY, tmp_path / "in", "video/mp4")
    storage.get_file(KEY, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == body


def test_a_file_travels_in_the_callers_thread(direct: Any, tmp_path: Path) -> None:
    """Where memory is short a thread dies while it starts, and its starter waits for ever."""
    (tmp_path / "in").write_bytes(bytes(9 * 2**20))  # in parts, which boto3 likes ten threads for
    storage, started = S3Storage(direct, BUCKET), set[str]()
    threading.setprofile(lambda *_: started.add(threading.current_thread().name))
    try:
        storage.put_file(KEY, tmp_path / "in", "video/mp4")
        storage.get_file(KEY, tmp_path / "out")
    finally:
        threading.setprofile(None)
    assert started == set()


def test_a_store_that_is_away_is_an_error(tmp_path: Path) -> None:
    storage = open_storage(f"s3://b?endpoint=http://127.0.0.1:{free_port()}&region={REGION}")
    with pytest.raises(StorageError, match="cannot be used"):
        storage.check()


@pytest.mark.parametrize("url", ["s3://", "s3://bucket?endpint=http://x", "s3:///prefix"])
def test_a_url_that_lacks_something_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="s3://bucket"):
        open_storage(url)
