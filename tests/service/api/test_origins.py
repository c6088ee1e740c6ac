"""Pages of other origins (CORS): those that the deployment names may call, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import RunningGateway

APP = "https://app.example.com"
STRANGER = "https://app.example.com.evil.example"
ALLOWED = "access-control-allow-origin"


@pytest.fixture
def sharing(redis_url: str, tmp_path: Path, open_gateway: Any) -> Iterator[RunningGateway]:
    """A gateway for two apps of other origins."""
    allowed = (APP, "http://localhost:5173")
    with open_gateway(redis_url, tmp_path / "storage", allowed_origins=allowed) as gateway:
        yield gateway


def preflight(url: str, origin: str, method: str = "POST") -> httpx.Response:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    return httpx.options(url, headers=asked)


def submit(url: str, picture: bytes, origin: str) -> httpx.Response:
    form = {"prompt": "x", "seconds": "1"}
    return httpx.post(url, data=form, files={"image": picture}, headers={"Origin": origin})


def readable(answer: httpx.Response) -> set[str]:
    return {each.strip() for each in answer.headers["access-control-expose-headers"].split(",")}


def test_a_script_may_submit_and_read_what_the_answer_says(
    sharing: RunningGateway, picture: bytes
) -> None:
    asked = preflight(f"{sharing.url}/jobs", APP)
    assert asked.status_code == 200
    assert asked.headers[ALLOWED] == APP
    assert "POST" in asked.headers["access-control-allow-methods"]
    allowed = asked.headers["access-control-allow-headers"]
    assert allowed == "authorization,content-type,idempotency-key"
    assert "access-control-allow-credentials" not in asked.headers
    answer = submit(f"{sharing.url}/jobs", picture, APP)
    assert answer.status_code == 202
    assert answer.headers[ALLOWED] == APP
    assert "origin" in answer.headers["vary"].lower()
    job = httpx.get(answer.headers["location"], headers={"Origin": APP})
    for said, names in ((answer, {"Location", "Retry-After", "X-Request-Id"}), (job, {"ETag"})):
        assert names <= readable(said)
        assert all(name in said.headers for name in names)
    assert preflight(answer.json()["links"]["self"], APP, "DELETE").status_code == 200


def test_streams_files_and_refusals_can_be_read_too(
    sharing: RunningGateway, picture: bytes
) -> None:
    here = submit(f"{sharing.url}/jobs", picture, APP).json()["links"]["self"]
    origin = {"Origin": APP}
    with httpx.stream("GET", f"{here}/events", headers=origin) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers[ALLOWED] == APP
        assert next(events.iter_lines()) == "id: 1"
    for path, status in (("playlist.m3u8", 200), ("preview", 404), ("nothing", 404)):
        answer = httpx.get(f"{here}/{path}", headers=origin)
        assert (answer.status_code, answer.headers[ALLOWED]) == (status, APP)
    storage = sharing.app.state.services.storage
    storage.put("jobs/x/a.mp4", bytes(64), "video/mp4")
    link = storage.signed_url(
        "jobs/x/a.mp4", expires_in=60, content_type="video/mp4", filename="a.mp4"
    )
    part = httpx.get(link, headers={**origin, "Range": "bytes=8-15"})
    assert (part.status_code, part.headers[ALLOWED]) == (206, APP)
    assert "Content-Range" in readable(part)
    # A browser keeps a file; what it got for a player must not be given to a script.
    assert "origin" in httpx.get(link).headers["vary"].lower()


def test_an_error_that_nobody_expected_can_be_read_too(
    sharing: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(sharing.app.state.services.record, "get", broken)
    monkeypatch.setattr(sharing.app.state.services.record, "spec", broken)
    answer = httpx.get(f"{sharing.url}/jobs/{'0' * 32}", headers={"Origin": APP})
    assert (answer.status_code, answer.headers[ALLOWED]) == (500, APP)


@pytest.mark.parametrize("origin", [STRANGER, "http://app.example.com", f"{APP}:8443", "null"])
def test_a_stranger_is_not_let_in(sharing: RunningGateway, picture: bytes, origin: str) -> None:
    asked = preflight(f"{sharing.url}/jobs", origin)
    assert asked.status_code == 400
    assert ALLOWED not in asked.headers
    assert ALLOWED not in submit(f"{sharing.url}/jobs", picture, origin).headers


def test_without_the_setting_no_other_origin_is_let_in(
    gateway: RunningGateway, picture: bytes
) -> None:
    for origin in (APP, gateway.url):
        assert ALLOWED not in preflight(f"{gateway.url}/jobs", origin).headers
        assert ALLOWED not in submit(f"{gateway.url}/jobs", picture, origin).headers
