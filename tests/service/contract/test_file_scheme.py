"""Files: whole or not there, and links that open one file until they expire."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from service.contract.errors import StorageError
from service.contract.storage import LinkSigning, open_storage
from service.contract.storage.file_scheme import FileStorage

KEY = "jobs/1/deliver/0-1-abcd.mp4"
SIGNING = LinkSigning("http://127.0.0.1:8000/", b"a secret")

DIES_WHILE_WRITING = """
import os, sys
from service.contract.storage import open_storage
storage = open_storage(sys.argv[1])
with storage._whole(sys.argv[2]) as partial:
    partial.write_bytes(b"half of")
    os._exit(9)
"""


def opened(folder: Path, signing: LinkSigning = SIGNING) -> FileStorage:
    storage = open_storage(f"file://{folder}", signing)
    assert isinstance(storage, FileStorage)
    return storage


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return opened(tmp_path / "a folder that is not there yet" / "store")


def link(storage: FileStorage, expires_in: int = 60) -> tuple[str, dict[str, str]]:
    """The key and the query of a signed link."""
    url = urlsplit(
        storage.signed_url(KEY, expires_in=expires_in, content_type="video/mp4", filename="a.mp4")
    )
    assert url.netloc == "127.0.0.1:8000"
    return url.path.removeprefix("/files/"), dict(parse_qsl(url.query))


class TestLinks:
    def test_a_link_is_good_until_it_expires(self, storage: FileStorage) -> None:
        assert storage.verify(*link(storage))
        assert not storage.verify(*link(storage, expires_in=-1))
        key, query = link(storage, expires_in=1)
        assert storage.verify(key, query)
        time.sleep(2.05)
        assert not storage.verify(key, query)

    @pytest.mark.parametrize(
        "change",
        [
            {"signature": "0" * 64},
            {"signature": ""},
            {"signature": "ünï"},
            {"expires": "99999999999"},
            {"expires": ""},
            {"expires": "-1"},
            {"expires": "1e99"},
            {"expires": "9" * 40},
            {"type": "text/html"},
            {"name": "b.mp4"},
        ],
    )
    def test_a_changed_link_is_refused(
        self, storage: FileStorage, change: Mapping[str, str]
    ) -> None:
        key, query = link(storage)
        assert not storage.verify(key, {**query, **change})

    def test_a_link_is_for_its_key_only(self, storage: FileStorage) -> None:
        _, query = link(storage)
        assert not storage.verify("jobs/2/deliver/0-1-abcd.mp4", query)

    def test_fields_cannot_flow_into_each_other(self, storage: FileStorage) -> None:
        def signature(content_type: str, filename: str) -> str:
            url = storage.signed_url(
                KEY, expires_in=60, content_type=content_type, filename=filename
            )
            return dict(parse_qsl(urlsplit(url).query))["signature"]

        assert signature("a\nb", "c") != signature("a", "b\nc")
        assert signature("a&name=b", "c") != signature("a", "b&name=c")

    def test_links_of_another_secret_are_refused(self, storage: FileStorage) -> None:
        other = opened(storage.folder, LinkSigning("http://127.0.0.1:8000", b"another secret"))
        assert not other.verify(*link(storage))

    def test_without_a_secret_there_are_no_links(self, tmp_path: Path) -> None:
        storage = opened(tmp_path, LinkSigning())
        with pytest.raises(StorageError, match="FRAMEPACK_SIGNING_SECRET"):
            link(storage)
        with pytest.raises(StorageError):
            storage.verify(KEY, {"expires": "99999999999", "signature": "0" * 64})


class TestWholeFiles:
    def test_a_writer_that_dies_leaves_no_object(self, storage: FileStorage) -> None:
        command = [sys.executable, "-c", DIES_WHILE_WRITING, f"file://{storage.folder}", KEY]
        assert subprocess.run(command, check=False).returncode == 9
        assert storage.head(KEY) is None
        assert list(storage.list("jobs/")) == []
        storage.put(KEY, b"whole", "video/mp4")
        assert storage.get(KEY) == b"whole"
        assert [found.key for found in storage.list("")] == [KEY]

    def test_a_full_disk_is_an_error_and_changes_nothing(
        self, storage: FileStorage, tmp_path: Path
    ) -> None:
        storage.put(KEY, b"old", "video/mp4")
        (tmp_path / "in").write_bytes(bytes(1 << 20))
        with _room_for(1 << 16):
            with pytest.raises(StorageError):
                storage.put(KEY, bytes(1 << 20), "video/mp4")
            with pytest.raises(StorageError):
                storage.put_file(KEY, tmp_path / "in", "video/mp4")
        assert storage.get(KEY) == b"old"
        assert [path.name for path in (storage.folder / KEY).parent.iterdir()] == [Path(KEY).name]

    def test_a_folder_that_went_away_is_an_error(self, storage: FileStorage) -> None:
        storage.folder.rmdir()
        storage.folder.write_text("a file is where the folder was")
        with pytest.raises(StorageError):
            storage.put(KEY, b"1", "video/mp4")
        with pytest.raises(StorageError):
            storage.check()

    @pytest.mark.parametrize("url", ["file://host/folder", "file:relative", "file://"])
    def test_a_url_must_name_a_whole_path(self, url: str) -> None:
        with pytest.raises(StorageError, match="file:///absolute/folder"):
            open_storage(url)


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
