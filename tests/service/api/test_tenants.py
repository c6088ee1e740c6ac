"""Who may ask, for what, and that another tenant's job does not exist."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api.auth import REMEMBERED_SECONDS
from service.contract.access import Access, Scope
from tests.support.keys import make_key

Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(redis_url: str, tmp_path: Path, open_gateway: Any) -> Iterator[Ask]:
    with (
        open_gateway(redis_url, tmp_path, auth="keys") as gateway,
        httpx.Client(base_url=gateway.url) as client,
    ):

        def send(method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return client.request(method, path, headers=headers, **more)

        yield send


def form(picture: bytes) -> dict[str, Any]:
    return {"data": {"prompt": "x"}, "files": {"image": ("a", picture)}}


def test_tenants_are_told_apart(ask: Ask, redis_url: str, picture: bytes) -> None:
    ann, bob, also_bob = (make_key(redis_url, name) for name in ("ann", "bob", "bob"))
    for key, challenge in (
        (None, "Bearer"),
        ("wrong", 'Bearer error="invalid_token"'),
        (ann[:-1], 'Bearer error="invalid_token"'),
    ):
        refused = ask("POST", "/jobs", key, **form(picture))
        assert refused.status_code == 401
        assert refused.json()["code"] == "unauthenticated"
        assert refused.headers["www-authenticate"] == challenge

    accepted = ask("POST", "/jobs", bob, **form(picture))
    assert accepted.status_code == 202, accepted.text
    job = f"/jobs/{accepted.json()['id']}"
    assert ask("GET", job, also_bob).status_code == 200
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/video"), ("POST", "/cancel")):
        assert ask(method, job + path, None).status_code == 401
        foreign = ask(method, job + path, ann)
        missing = ask(method, f"/jobs/{'0' * 32}{path}", ann)
        assert foreign.status_code == missing.status_code == 404
        assert foreign.json()["detail"] == missing.json()["detail"]
    # Machinery needs no key.
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert ask("GET", path, None).status_code == 200


def test_a_key_may_come_in_its_own_header(ask: Ask, redis_url: str) -> None:
    key, path = make_key(redis_url, "ann"), f"/jobs/{'0' * 32}"
    url = str(ask("GET", path, None).request.url)
    assert httpx.get(url, headers={"X-API-Key": key}).status_code == 404
    assert httpx.get(url, headers={"X-API-Key": "nobody's"}).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Basic {key}"}).status_code == 401


def test_a_key_does_only_what_its_scopes_say(ask: Ask, redis_url: str, picture: bytes) -> None:
    reader = make_key(redis_url, "ann", [Scope.JOBS_READ])
    writer = make_key(redis_url, "ann", [Scope.JOBS_WRITE])
    refused = ask("POST", "/jobs", reader, **form(picture))
    assert refused.status_code == 403
    assert refused.json()["code"] == "missing_scope"
    assert 'scope="jobs:write"' in refused.headers["www-authenticate"]
    job = ask("POST", "/jobs", writer, **form(picture)).json()
    assert ask("GET", f"/jobs/{job['id']}", reader).status_code == 200
    assert ask("GET", f"/jobs/{job['id']}", writer).status_code == 403
    assert ask("POST", f"/jobs/{job['id']}/cancel", reader).status_code == 403
    assert ask("POST", f"/jobs/{job['id']}/cancel", writer).status_code == 200


def test_a_revoked_key_is_refused_within_seconds(ask: Ask, redis_url: str, redis: Redis) -> None:
    key, path = make_key(redis_url, "ann"), f"/jobs/{'0' * 32}"
    assert ask("GET", path, key).status_code == 404
    access = Access(redis, b"")
    access.revoke(access.list_keys()[0].id)
    time.sleep(REMEMBERED_SECONDS)
    assert ask("GET", path, key).status_code == 401
    # One that was tried before it existed works as soon as it does.
    assert ask("GET", path, make_key(redis_url, "ann")).status_code == 404
