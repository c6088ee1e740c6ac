"""Signed links to files: what they open, and everything they do not."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from service.contract.storage.file_scheme import FileStorage

KEY = "jobs/x/deliver/0-1-abc.mp4"
BODY = bytes(range(256)) * 4


@pytest.fixture
def storage(gateway: Any) -> FileStorage:
    storage = gateway.app.state.services.storage
    assert isinstance(storage, FileStorage)
    storage.put(KEY, BODY, "video/mp4")
    return storage


@pytest.fixture
def link(storage: FileStorage) -> str:
    return storage.signed_url(KEY, expires_in=60, content_type="video/mp4", filename="a.mp4")


def changed(link: str, change: Callable[[dict[str, str]], object]) -> str:
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query))
    change(query)
    return parts._replace(query=urlencode(query)).geturl()


def test_a_signed_link_opens_the_file(link: str) -> None:
    answer = httpx.get(link)
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == 'inline; filename="a.mp4"'
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_player_can_seek(link: str) -> None:
    part = httpx.get(link, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, BODY[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(BODY)}"
    assert httpx.get(link, headers={"Range": "bytes=-4"}).content == BODY[-4:]
    assert httpx.get(link, headers={"Range": f"bytes={len(BODY)}-"}).status_code == 416
    head = httpx.head(link)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(BODY)))


def test_a_changed_link_opens_nothing(link: str, storage: FileStorage) -> None:
    storage.put("jobs/y/secret.mp4", b"other", "video/mp4")
    expired = storage.signed_url(KEY, expires_in=-1, content_type="video/mp4", filename="a.mp4")
    links = [
        link.replace("jobs/x/deliver/0-1-abc.mp4", "jobs/y/secret.mp4"),
        changed(link, lambda query: query.update(type="text/html")),
        changed(link, lambda query: query.update(name="b.mp4")),
        changed(link, lambda query: query.update(expires=str(int(query["expires"]) + 1))),
        changed(link, lambda query: query.update(signature="0" * 64)),
        changed(link, lambda query: query.update(signature="ünï")),
        changed(link, lambda query: query.pop("signature")),
        link.partition("?")[0],
        expired,
    ]
    for each in links:
        answer = httpx.get(each)
        assert answer.status_code == 403, each
        assert answer.json()["code"] == "invalid_signature"


@pytest.mark.parametrize("key", ["../signing-secret", "jobs/%2e%2e/%2e%2e/x", "%00", "", "a//b"])
def test_no_path_leads_out_of_the_folder(gateway: Any, key: str) -> None:
    query = "expires=99999999999&type=a&name=b&signature=c"
    assert httpx.get(f"{gateway.url}/files/{key}?{query}").status_code in (403, 404)


def test_a_removed_file_is_not_found(link: str, storage: FileStorage) -> None:
    storage.delete(KEY)
    assert httpx.get(link).status_code == 404


def test_a_storage_that_serves_its_links_itself_has_no_files_here(
    redis_url: str, tmp_path: Any, open_gateway: Any
) -> None:
    with open_gateway(redis_url, tmp_path, storage_url="memory://files") as gateway:
        assert httpx.get(f"{gateway.url}/files/{KEY}").status_code == 404
