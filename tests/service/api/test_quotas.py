"""Limits as clients see them: header fields, 429 and 503 with a Retry-After that holds."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api import outlook
from tests.support.keys import make_key

PICTURES = {"/jobs": "image", "/v1/videos": "input_reference"}
"""Where jobs are submitted, and the name of the picture there."""

Send = Callable[..., httpx.Response]


@pytest.fixture
def limited(
    redis_url: str, tmp_path: Path, open_gateway: Any, picture: bytes
) -> Iterator[Callable[..., Send]]:
    """Opens a gateway with limits; gives what submits to it as a tenant."""
    opened = []

    def open_limited(**settings: Any) -> Send:
        context = open_gateway(redis_url, tmp_path, auth="keys", **settings)
        opened.append(context)
        url = context.__enter__().url
        keys = {name: make_key(redis_url, name) for name in ("ann", "bob")}

        def send(tenant: str = "ann", path: str = "/jobs", **headers: str) -> httpx.Response:
            return httpx.post(
                url + path,
                headers={"Authorization": f"Bearer {keys[tenant]}", **headers},
                data={"prompt": "x", "seconds": "1"} if path in PICTURES else None,
                files={PICTURES[path]: ("a.png", picture)} if path in PICTURES else None,
            )

        return send

    yield open_limited
    for context in opened:
        context.__exit__(None, None, None)


def test_every_submission_tells_what_is_left(limited: Callable[..., Send]) -> None:
    send = limited(max_submissions=60, max_jobs=2)
    answer = send()
    assert answer.status_code == 202
    assert answer.headers["ratelimit-policy"] == '"jobs";q=2;qu="jobs", "submissions";q=60;w=60'
    assert answer.headers["ratelimit"] == '"jobs";r=1, "submissions";r=59;t=1'


def test_a_tenants_limit_is_429_and_leaves_nothing_behind(
    limited: Callable[..., Send], tmp_path: Path, redis: Redis
) -> None:
    send = limited(max_jobs=1)
    job = send().json()
    stored = sorted(tmp_path.rglob("*.png"))
    redis.hset("framepack:pace", "tiny", "1e9")
    refused = send()
    assert refused.status_code == 429
    problem = refused.json()
    assert (problem["code"], problem["retryable"]) == ("quota_exceeded", True)
    assert problem["detail"].startswith("The limit of jobs is 1. Wait until")
    assert '"jobs";r=0' in refused.headers["ratelimit"]
    assert refused.headers["retry-after"] == "3600"
    assert sorted(tmp_path.rglob("*.png")) == stored
    # Not the other tenant's affair, and over with the job.
    assert send("bob").status_code == 202
    assert send(path=f"/jobs/{job['id']}/cancel").status_code == 200
    assert send().status_code == 202


def test_the_openai_dialect_is_limited_too(limited: Callable[..., Send]) -> None:
    send = limited(max_jobs=1)
    accepted = send(path="/v1/videos")
    assert accepted.headers["ratelimit"].startswith('"jobs";r=0')
    refused = send(path="/v1/videos")
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "quota_exceeded"
    assert int(refused.headers["retry-after"]) >= 1


def test_whoever_waits_as_long_as_told_is_let_in(limited: Callable[..., Send]) -> None:
    send = limited(max_submissions=30)
    answers = [send()]
    while answers[-1].status_code == 202:
        assert len(answers) < 60
        answers.append(send())
    assert len(answers) > 30
    seconds = int(answers[-1].headers["retry-after"])
    assert 1 <= seconds <= 2
    time.sleep(seconds)
    assert send().status_code == 202


def test_a_submission_sent_again_costs_nothing(limited: Callable[..., Send]) -> None:
    send = limited(max_jobs=1, max_submissions=1)
    key = {"Idempotency-Key": "one"}
    assert send(**key).status_code == 202
    again = send(**key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert send().status_code == 429


def test_a_full_service_is_503(
    limited: Callable[..., Send], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for remembers in ("FRESH_SECONDS", "PATIENCE"):
        monkeypatch.setattr(outlook, remembers, 0)
    send = limited(max_open_jobs=1)
    assert send().status_code == 202
    # One section of a short video with tiny, at a pace of so many milliseconds a unit of cost.
    (job_id,) = redis.smembers("framepack:open")
    cost = redis.hget(f"framepack:job:{job_id!s}", "cost")
    redis.hset("framepack:pace", "tiny", str(7000 / float(str(cost))))
    refused = send("bob")
    assert refused.status_code == 503
    assert refused.json()["code"] == "full"
    assert refused.headers["retry-after"] == "7"


def test_nobody_is_limited_in_a_service_that_is_open(
    redis_url: str, tmp_path: Path, open_gateway: Any, picture: bytes
) -> None:
    with open_gateway(redis_url, tmp_path, max_jobs=1) as gateway:
        for _ in range(2):
            files = {"image": ("a.png", picture)}
            answer = httpx.post(f"{gateway.url}/jobs", data={"prompt": "x"}, files=files)
            assert answer.status_code == 202
            assert "ratelimit" not in answer.headers
