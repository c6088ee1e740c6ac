"""API keys: who may ask, and that another tenant's job does not exist."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

KEYS = {"key-of-ann": "ann", "key-of-bob": "bob", "second-key-of-bob": "bob"}


@pytest.fixture
def ask(redis_url: str, tmp_path: Path, open_gateway: Any) -> Iterator[Callable[..., Any]]:
    with (
        open_gateway(redis_url, tmp_path, api_keys=KEYS) as gateway,
        httpx.Client(base_url=gateway.url) as client,
    ):

        def send(method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return client.request(method, path, headers=headers, **more)

        yield send


def test_tenants_are_told_apart(ask: Callable[..., httpx.Response], picture: bytes) -> None:
    form = {"data": {"prompt": "x"}, "files": {"image": ("a", picture)}}
    for key in (None, "wrong", "key-of-an"):
        refused = ask("POST", "/jobs", key, **form)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"

    accepted = ask("POST", "/jobs", "key-of-bob", **form)
    assert accepted.status_code == 202, accepted.text
    job = f"/jobs/{accepted.json()['id']}"
    assert ask("GET", job, "second-key-of-bob").status_code == 200
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/video"), ("POST", "/cancel")):
        assert ask(method, job + path, None).status_code == 401
        foreign = ask(method, job + path, "key-of-ann")
        missing = ask(method, f"/jobs/{'0' * 32}{path}", "key-of-ann")
        assert foreign.status_code == missing.status_code == 404
        assert foreign.json()["detail"] == missing.json()["detail"]
    # Machinery needs no key.
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert ask("GET", path, None).status_code == 200


def test_a_key_may_come_in_its_own_header(
    redis_url: str, tmp_path: Path, open_gateway: Any
) -> None:
    with open_gateway(redis_url, tmp_path, api_keys=KEYS) as gateway:
        url = f"{gateway.url}/jobs/{'0' * 32}"
        assert httpx.get(url, headers={"X-API-Key": "key-of-ann"}).status_code == 404
        assert httpx.get(url, headers={"X-API-Key": "nobody's"}).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Basic key-of-ann"}).status_code == 401
