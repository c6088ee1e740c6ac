"""Idempotency-Key: the same request is one job, however often and however concurrently it comes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.client import Client
from service.contract.views import ProblemView
from tests.support.keys import make_key


@pytest.fixture
def send(http: httpx.Client, picture: bytes) -> Any:
    def post(key: str, prompt: str = "x", image: bytes = picture, **fields: Any) -> httpx.Response:
        form = {"prompt": prompt, **fields}
        headers = {"Idempotency-Key": key}
        return http.post("/jobs", data=form, files={"image": ("a", image)}, headers=headers)

    return post


def jobs(redis: Redis) -> int:
    return int(str(redis.scard("framepack:open")))


def pictures(gateway: Any) -> int:
    return len(list(gateway.app.state.services.storage.list("jobs/")))


def test_the_same_request_is_the_same_job(send: Any, redis: Redis) -> None:
    first, again = send("one"), send("one")
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json()["seed"] == again.json()["seed"]
    other = send("two")
    assert other.json()["id"] != first.json()["id"]
    assert jobs(redis) == 2


def test_requests_at_the_same_time_are_one_job(send: Any, redis: Redis, gateway: Any) -> None:
    before = pictures(gateway)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: send("at-once"), range(6)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert jobs(redis) == 1
    assert pictures(gateway) == before + 1


def test_another_request_with_the_key_is_refused(send: Any, redis: Redis, picture: bytes) -> None:
    assert send("one").status_code == 202
    image = {"image": picture + b" "}
    for other in ({"prompt": "y"}, {"steps": "3"}, {"quality": "draft"}, image):
        answer = send("one", **other)
        assert answer.status_code == 422
        assert ProblemView.model_validate_json(answer.content).code == "idempotency_mismatch"
    assert jobs(redis) == 1


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
def test_a_key_that_cannot_be_used_is_refused(send: Any, key: str) -> None:
    answer = send(key)
    assert answer.status_code == 400
    assert ProblemView.model_validate_json(answer.content).code == "invalid_idempotency_key"


def test_keys_are_forgotten_after_a_day_and_kept_as_hashes(send: Any, redis: Redis) -> None:
    send("a-very-secret-key")
    (kept,) = redis.scan_iter("framepack:idempotent:*")
    assert "secret" not in str(kept)
    assert 23 * 3600 < int(str(redis.ttl(kept))) <= 24 * 3600


def test_a_key_belongs_to_its_tenant(
    redis_url: str, tmp_path: Path, open_gateway: Any, picture: bytes
) -> None:
    with open_gateway(redis_url, tmp_path, auth="keys") as gateway:
        ids = set()
        for tenant in ("ann", "bob"):
            with Client(gateway.url, api_key=make_key(redis_url, tenant)) as client:
                ids.add(client.submit(picture, "x", idempotency_key="1").id)
        assert len(ids) == 2


class LosesTheFirstAnswer(httpx.BaseTransport):
    """Delivers every request; the answer to the first gets lost on the way."""

    def __init__(self) -> None:
        self.inner = httpx.HTTPTransport()
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self.inner.handle_request(request)
        if not self.lost:
            self.lost += 1
            answer.read()
            raise httpx.ReadError("the connection broke", request=request)
        return answer

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def lossy_client(gateway: Any) -> Iterator[tuple[Client, LosesTheFirstAnswer]]:
    transport = LosesTheFirstAnswer()
    with Client(gateway.url, retry_seconds=(0.01,), transport=transport) as client:
        yield client, transport


def test_a_client_whose_answer_was_lost_makes_no_second_job(
    lossy_client: tuple[Client, LosesTheFirstAnswer], picture: bytes, redis: Redis
) -> None:
    client, transport = lossy_client
    job = client.submit(picture, "x")
    assert transport.lost == 1
    assert client.get(job.id).status == "queued"
    assert jobs(redis) == 1
