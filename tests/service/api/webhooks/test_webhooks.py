"""Webhooks from registration to a real receiver, who verifies with the specification's library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from standardwebhooks import Webhook, WebhookVerificationError

from service.api.webhooks.poster import SECONDS_TO_ANSWER
from service.contract.access import Scope
from service.contract.connections import connect
from service.contract.outbox import MOST_PER_TENANT
from service.contract.record import Record
from tests.service.conftest import RunningGateway
from tests.support.keys import make_key
from tests.support.lanes import HandWorker
from tests.support.receiver import Received, Receiver
from tests.support.valkey import free_port

OPEN = {"webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "0.05,0.05,0.05"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def telling(redis_url: str, tmp_path: Path, open_gateway: Any) -> Iterator[RunningGateway]:
    """A gateway whose webhooks may go to loopback."""
    with open_gateway(redis_url, tmp_path, **OPEN) as gateway:
        yield gateway


@pytest.fixture
def http(telling: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=telling.url, timeout=20) as client:
        yield client


Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def submit(http: httpx.Client, picture: bytes) -> Submit:
    def send(**webhook: Any) -> dict[str, Any]:
        form = {"prompt": "x", "seconds": "1", "metadata": '{"shot": "12"}'}
        if webhook:
            form["webhook"] = json.dumps(webhook)
        answer = http.post("/jobs", data=form, files={"image": ("a.jpg", picture)})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    return send


def verified(received: Received, *secrets: str) -> dict[str, Any]:
    """The message, if a receiver with any of these secrets takes it."""
    for secret in secrets:
        message: dict[str, Any] = Webhook(secret).verify(received.body, received.headers)
    return message


def deliveries(http: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.get(f"/jobs/{job['id']}/deliveries")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def settled(http: httpx.Client, job: dict[str, Any], state: str) -> dict[str, Any]:
    """The job's only delivery, once it stands so."""
    deadline = time.monotonic() + 20
    while True:
        (found,) = deliveries(http, job)
        if found["state"] == state:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_finished_job_is_told_signed(
    telling: RunningGateway, http: httpx.Client, submit: Submit, receiver: Receiver, redis: Redis
) -> None:
    job = submit(url=receiver.url, events=["job.section.completed", "job.completed"])
    assert job["input"]["webhook"]["url"] == receiver.url
    record = Record(redis, telling.settings.record_policy())
    HandWorker(record, telling.app.state.services.storage).run_all(sections=1)
    secret = http.get("/webhooks/secret").json()["secret"]
    messages = {}
    for received in receiver.wait_for(2):
        assert received.headers["content-type"] == "application/json"
        message = verified(received, secret)
        messages[message["type"]] = message
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(received.body + b" ", received.headers)
    done = messages["job.completed"]
    assert done["data"]["job_id"] == job["id"]
    assert done["data"]["metadata"] == {"shot": "12"}
    assert done["data"]["links"]["video"] == f"{telling.url}/jobs/{job['id']}/video"
    video = done["data"]["video"]
    assert (video["content_type"], len(video["sha256"])) == ("video/mp4", 64)
    assert messages["job.section.completed"]["data"]["section"] == 0
    # Where things lie in the storage is nobody's business.
    assert "key" not in json.dumps(messages)
    events = [event for event in deliveries(http, job) if event["state"] == "delivered"]
    assert {event["event"] for event in events} == set(messages)
    metrics = http.get("/metrics").text
    assert 'framepack_webhook_attempts_total{outcome="delivered"} 2.0' in metrics


def test_an_endpoint_is_registered_told_and_removed(
    http: httpx.Client, submit: Submit, receiver: Receiver
) -> None:
    made = http.post("/webhooks", json={"url": receiver.url, "events": ["job.queued"]})
    assert made.status_code == 201
    endpoint = made.json()
    assert http.get(made.headers["location"]).json() == endpoint
    assert http.get("/webhooks").json()["data"] == [endpoint]
    job = submit()
    message = verified(receiver.wait_for(1)[0], http.get("/webhooks/secret").json()["secret"])
    assert (message["type"], message["data"]["job_id"]) == ("job.queued", job["id"])
    assert http.delete(f"/webhooks/{endpoint['id']}").status_code == 204
    for method in ("GET", "DELETE"):
        gone = http.request(method, f"/webhooks/{endpoint['id']}")
        assert (gone.status_code, gone.json()["code"]) == (404, "webhook_not_found")
    submit()
    time.sleep(0.2)
    assert len(receiver.received) == 1


def test_what_fails_is_tried_again_under_the_same_id(
    http: httpx.Client, submit: Submit, receiver: Receiver
) -> None:
    receiver.answers.extend([500, 404])
    job = submit(url=receiver.url, events=["job.queued"])
    received = receiver.wait_for(3)
    secret = http.get("/webhooks/secret").json()["secret"]
    assert len({each.headers["webhook-id"] for each in received}) == 1
    assert len({each.body for each in received}) == 1
    for each in received:
        verified(each, secret)
    done = settled(http, job, "delivered")
    assert [each["status"] for each in done["attempts"]] == [500, 404, 200]
    assert done["id"] == received[0].headers["webhook-id"]


def test_it_is_given_up_and_can_be_replayed(
    http: httpx.Client, submit: Submit, receiver: Receiver
) -> None:
    receiver.answers.extend([503] * 4)
    job = submit(url=receiver.url, events=["job.queued"])
    given_up = settled(http, job, "failed")
    assert [each["status"] for each in given_up["attempts"]] == [503] * 4
    assert given_up["next_attempt_at"] is None
    path = f"/jobs/{job['id']}/deliveries"
    again = http.post(f"{path}/{given_up['id']}/replay")
    assert (again.status_code, again.json()["state"]) == (202, "waiting")
    settled(http, job, "delivered")
    assert len({each.headers["webhook-id"] for each in receiver.wait_for(5)}) == 1
    for name in ("msg_x", given_up["id"].replace("job", "other"), "a%20b"):
        missing = http.post(f"{path}/{name}/replay")
        assert (missing.status_code, missing.json()["code"]) == (404, "delivery_not_found")


def test_an_endpoint_that_is_gone_is_told_nothing_more(
    http: httpx.Client, submit: Submit, receiver: Receiver
) -> None:
    made = http.post("/webhooks", json={"url": receiver.url, "events": ["job.queued"]}).json()
    receiver.answers.append(410)
    job = submit()
    assert [each["status"] for each in settled(http, job, "failed")["attempts"]] == [410]
    assert http.get(f"/webhooks/{made['id']}").json()["disabled_at"] is not None
    assert deliveries(http, submit()) == []


def test_receivers_that_hang_keep_nobody_waiting(
    redis_url: str, tmp_path: Path, open_gateway: Any, picture: bytes, receiver: Receiver
) -> None:
    """Five tenants' receivers take four messages each and are silent; a sixth tenant's is told."""
    keys = [make_key(redis_url, f"tenant-{number}") for number in range(6)]
    with (
        Receiver() as silent,
        open_gateway(redis_url, tmp_path, auth="keys", **OPEN) as gateway,
        httpx.Client(base_url=gateway.url, timeout=20) as client,
    ):
        silent.answers.extend([60.0] * 100)

        def submit(key: str, url: str) -> None:
            form = {"prompt": "x", "webhook": json.dumps({"url": url, "events": ["job.queued"]})}
            headers = {"Authorization": f"Bearer {key}"}
            files = {"image": ("a.jpg", picture)}
            answer = client.post("/jobs", data=form, files=files, headers=headers)
            assert answer.status_code == 202

        for key in keys[:5] * (MOST_PER_TENANT + 1):
            submit(key, silent.url)
        silent.wait_for(5 * MOST_PER_TENANT)
        submit(keys[5], receiver.url)
        # Sooner than the first of the silent ones is given up.
        receiver.wait_for(1, seconds=SECONDS_TO_ANSWER - 5)
        assert len(silent.received) == 5 * MOST_PER_TENANT


def test_redirects_are_not_followed(http: httpx.Client, submit: Submit, receiver: Receiver) -> None:
    receiver.headers["location"] = f"{receiver.url}/elsewhere"
    receiver.answers.extend([302, 307, 308, 301])
    job = submit(url=receiver.url, events=["job.queued"])
    assert [each["status"] for each in settled(http, job, "failed")["attempts"]] == [
        302,
        307,
        308,
        301,
    ]
    assert {each.path for each in receiver.received} == {"/hook"}


def test_a_rotated_secret_overlaps_with_the_old_one(
    http: httpx.Client, submit: Submit, receiver: Receiver, redis: Redis
) -> None:
    old = http.get("/webhooks/secret").json()["secret"]
    rotated = http.post("/webhooks/secret/rotate").json()
    assert rotated["previous"] == old
    assert rotated["secret"] != old
    submit(url=receiver.url, events=["job.queued"])
    (first,) = receiver.wait_for(1)
    assert len(first.headers["webhook-signature"].split()) == 2
    verified(first, old, rotated["secret"])
    redis.hset("framepack:hooks:default:secret", "until", "1")
    submit(url=receiver.url, events=["job.queued"])
    second = receiver.wait_for(2)[1]
    verified(second, rotated["secret"])
    with pytest.raises(WebhookVerificationError):
        verified(second, old)


def test_a_message_outlives_the_gateway_that_was_sending_it(
    redis_url: str, tmp_path: Path, open_gateway: Any, picture: bytes, receiver: Receiver
) -> None:
    """It was claimed and posted; then its sender was gone before it could say how that ended."""
    receiver.answers.append(30.0)
    port = free_port()
    with open_gateway(redis_url, tmp_path, port, **OPEN) as first:
        form = {
            "prompt": "x",
            "webhook": json.dumps({"url": receiver.url, "events": ["job.queued"]}),
        }
        httpx.post(f"{first.url}/jobs", data=form, files={"image": ("a.jpg", picture)})
        receiver.wait_for(1)
    with connect(redis_url) as client:
        (name,) = client.scan_iter("framepack:delivery:*")
        assert client.hget(name, "state") == "waiting"
        # Rather than wait for the lease's end: the minute is over now.
        (box,) = client.scan_iter("framepack:outbox:default")
        client.zadd(box, {str(name).removeprefix("framepack:delivery:"): 1})
        client.zadd("framepack:outbox", {"default": 1})
    with open_gateway(redis_url, tmp_path, port, **OPEN):
        one, two = receiver.wait_for(2)
        assert one.headers["webhook-id"] == two.headers["webhook-id"]
        assert one.body == two.body


@pytest.mark.parametrize("url", ["http://example.org/x", "https://127.0.0.1/x", "https://[::1]/x"])
def test_what_leads_inside_is_refused_where_nothing_allows_it(
    gateway: RunningGateway, picture: bytes, url: str
) -> None:
    refused = httpx.post(f"{gateway.url}/webhooks", json={"url": url})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/url"
    form = {"prompt": "x", "webhook": json.dumps({"url": url})}
    refused = httpx.post(f"{gateway.url}/jobs", data=form, files={"image": ("a.jpg", picture)})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "#/webhook/url"


def test_a_name_that_leads_inside_is_refused_when_it_is_looked_up(
    gateway: RunningGateway, picture: bytes, receiver: Receiver
) -> None:
    webhook = {"url": f"https://localhost:{receiver.port}/hook", "events": ["job.queued"]}
    form = {"prompt": "x", "webhook": json.dumps(webhook)}
    files = {"image": ("a.jpg", picture)}
    job = httpx.post(f"{gateway.url}/jobs", data=form, files=files).json()
    deadline = time.monotonic() + 20
    with httpx.Client(base_url=gateway.url) as client:
        while not (found := deliveries(client, job)[0]["attempts"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert found[0]["error"] == "the host has an address that may not be reached"
    assert receiver.received == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/url"),
        ({"url": "ftp://example.org"}, "#/url"),
        ({"url": "https://a:b@example.org"}, "#/url"),
        ({"url": "https://example.org", "events": ["job.moved"]}, "#/events/0"),
        ({"url": "https://example.org", "events": []}, "#/events"),
        ({"url": "https://example.org", "color": "red"}, "#/color"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_said(
    gateway: RunningGateway, body: dict[str, Any], pointer: str
) -> None:
    refused = httpx.post(f"{gateway.url}/webhooks", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == pointer


def test_webhooks_are_a_tenants_own_and_need_their_scope(
    redis_url: str, tmp_path: Path, open_gateway: Any, picture: bytes
) -> None:
    reader = make_key(redis_url, "ann", [Scope.JOBS_READ])
    ann, bob = make_key(redis_url, "ann"), make_key(redis_url, "bob")
    with (
        open_gateway(redis_url, tmp_path, auth="keys") as gateway,
        httpx.Client(base_url=gateway.url) as client,
    ):

        def ask(method: str, path: str, key: str, **more: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return client.request(method, path, headers=headers, **more)

        body = {"json": {"url": "https://example.org/x"}}
        endpoint = ask("POST", "/webhooks", ann, **body).json()
        form = {"data": {"prompt": "x"}, "files": {"image": ("a.jpg", picture)}}
        job = ask("POST", "/jobs", ann, **form).json()
        for method, path in (
            ("GET", f"/webhooks/{endpoint['id']}"),
            ("DELETE", f"/webhooks/{endpoint['id']}"),
            ("GET", f"/jobs/{job['id']}/deliveries"),
            ("POST", f"/jobs/{job['id']}/deliveries/msg_{job['id']}_1_job/replay"),
        ):
            assert ask(method, path, bob).status_code == 404
            assert ask(method, path, reader).status_code == 403
        for path in ("/webhooks", "/webhooks/secret"):
            assert client.get(path).status_code == 401
            assert ask("GET", path, reader).status_code == 403
        assert ask("GET", "/webhooks", bob).json()["data"] == []
        secrets = {ask("GET", "/webhooks/secret", key).json()["secret"] for key in (ann, bob)}
        assert len(secrets) == 2
