"""Deliveries are written with their events, claimed by one, and survive whoever claimed them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from service.contract.connections import connect
from service.contract.endpoints import (
    MOST_ENDPOINTS,
    EndpointNotFound,
    Endpoints,
    TooManyEndpoints,
)
from service.contract.job import JobRequest
from service.contract.outbox import MOST_PER_TENANT, Attempt, Delivery, Outbox, Outcome
from service.contract.record import Record, RecordPolicy
from service.contract.webhook import ENDS, Webhook, WebhookEvent
from tests.support.jobs import do_all, make_spec
from tests.support.lossy import LossyProxy
from tests.support.valkey import Valkey

URL = "https://example.org/hook"
ALL: tuple[WebhookEvent, ...] = (
    "job.queued",
    "job.started",
    "job.section.completed",
    "job.completed",
    "job.failed",
    "job.cancelled",
)


@pytest.fixture
def record(redis: Redis) -> Record:
    return Record(redis, RecordPolicy(backoff_ms=(0,)))


@pytest.fixture
def outbox(redis: Redis) -> Outbox:
    return Outbox(redis)


@pytest.fixture
def endpoints(redis: Redis) -> Endpoints:
    return Endpoints(redis)


def spec_with(webhook: Webhook | None = None, tenant: str = "someone", **changes: Any) -> Any:
    request = JobRequest(prompt="x", seed=1, webhook=webhook)
    return make_spec(tenant, request=request, **changes)


def attempt(status: int = 200) -> Attempt:
    return Attempt(at=0, took_ms=5, status=status)


def events(deliveries: list[Delivery]) -> list[str]:
    return [delivery.event for delivery in deliveries]


def test_a_job_tells_its_own_webhook_what_it_asked_for(record: Record, outbox: Outbox) -> None:
    told, silent = spec_with(Webhook(url=URL, events=ALL)), spec_with()
    for spec in (told, silent):
        record.submit(spec)
    do_all(record)
    found = outbox.of_job(told.id)
    assert events(found) == [
        "job.queued",
        "job.started",
        *["job.section.completed"] * told.num_sections,
        "job.completed",
    ]
    assert {(each.hook, each.url, each.state) for each in found} == {("job", URL, "waiting")}
    assert len({each.id for each in found}) == len(found)
    assert found[-1].data["video"]["sha256"]
    assert outbox.of_job(silent.id) == []


def test_endpoints_are_told_of_all_jobs_of_their_tenant(
    record: Record, outbox: Outbox, endpoints: Endpoints
) -> None:
    ends = endpoints.register("someone", Webhook(url=URL))
    starts = endpoints.register("someone", Webhook(url=f"{URL}/2", events=("job.queued",)))
    foreign = endpoints.register("another", Webhook(url=f"{URL}/3", events=ALL))
    assert ends.events == ENDS
    spec = spec_with()
    record.submit(spec)
    record.cancel(spec.id)
    told = [(each.event, each.hook) for each in outbox.of_job(spec.id)]
    assert told == [("job.queued", starts.id), ("job.cancelled", ends.id)]
    endpoints.remove("someone", ends.id)
    with pytest.raises(EndpointNotFound):
        endpoints.remove("someone", foreign.id)
    later = spec_with()
    record.submit(later)
    record.cancel(later.id)
    assert events(outbox.of_job(later.id)) == ["job.queued"]
    assert [each.id for each in endpoints.all_of("someone")] == [starts.id]


def test_a_tenant_has_ten_endpoints(endpoints: Endpoints) -> None:
    for number in range(MOST_ENDPOINTS):
        endpoints.register("someone", Webhook(url=f"{URL}/{number}"))
    with pytest.raises(TooManyEndpoints):
        endpoints.register("someone", Webhook(url=URL))
    assert len(endpoints.all_of("someone")) == MOST_ENDPOINTS


@pytest.fixture
def waiting(record: Record) -> Callable[..., str]:
    """Has one message wait; the job's id."""

    def submit(tenant: str = "someone") -> str:
        spec = spec_with(Webhook(url=URL, events=("job.queued",)), tenant)
        record.submit(spec)
        return str(spec.id)

    return submit


def test_a_claim_is_a_lease(outbox: Outbox, waiting: Callable[..., str]) -> None:
    job_id = waiting()
    (mine,) = outbox.claim(10, lease_ms=100)
    assert mine.job_id == job_id
    assert outbox.claim(10) == []
    time.sleep(0.15)
    (again,) = outbox.claim(10)
    assert (again.id, again.tries) == (mine.id, 0)
    # Whoever was frozen past its lease is not heard.
    assert not outbox.settle(mine, Outcome(attempt(), "delivered"))
    assert outbox.of_job(job_id)[0].state == "waiting"
    assert outbox.settle(again, Outcome(attempt(), "delivered"))
    assert not outbox.settle(again, Outcome(attempt(), "delivered"))
    (done,) = outbox.of_job(job_id)
    assert (done.state, done.due_at, [each.status for each in done.attempts]) == (
        "delivered",
        None,
        [200],
    )
    assert outbox.claim(10) == []


def test_what_failed_comes_again_when_its_pause_is_over(
    outbox: Outbox, waiting: Callable[..., str]
) -> None:
    job_id = waiting()
    (first,) = outbox.claim(10)
    outbox.settle(first, Outcome(attempt(500), "failed", again_ms=100))
    assert outbox.claim(10) == []
    time.sleep(0.15)
    (second,) = outbox.claim(10)
    assert (second.id, second.tries) == (first.id, 1)
    outbox.settle(second, Outcome(Attempt(0, 7, error="no answer in time"), "failed"))
    (done,) = outbox.of_job(job_id)
    assert done.state == "failed"
    assert [(each.status, each.error) for each in done.attempts] == [
        (500, None),
        (None, "no answer in time"),
    ]
    assert outbox.claim(10) == []


def test_an_endpoint_that_is_gone_is_told_nothing_more(
    record: Record, outbox: Outbox, endpoints: Endpoints
) -> None:
    gone = endpoints.register("someone", Webhook(url=URL, events=("job.queued",)))
    record.submit(spec_with())
    (delivery,) = outbox.claim(10)
    outbox.settle(delivery, Outcome(attempt(410), "failed", disable=True))
    assert endpoints.get("someone", gone.id).disabled_at is not None
    record.submit(spec_with())
    assert outbox.claim(10) == []


def test_replay_sends_again_from_the_first_try(
    outbox: Outbox, waiting: Callable[..., str], redis: Redis
) -> None:
    job_id = waiting()
    (delivery,) = outbox.claim(10)
    # What is being sent is left alone.
    assert outbox.replay("someone", job_id, delivery.id) is not None
    assert outbox.claim(10) == []
    outbox.settle(delivery, Outcome(attempt(500), "failed"))
    assert int(str(redis.pttl(f"framepack:delivery:{delivery.id}"))) > 0
    assert outbox.replay("another", job_id, delivery.id) is None
    assert outbox.replay("someone", "0" * 32, delivery.id) is None
    replayed = outbox.replay("someone", job_id, delivery.id)
    assert replayed is not None
    assert (replayed.state, replayed.tries, len(replayed.attempts)) == ("waiting", 0, 1)
    assert redis.pttl(f"framepack:delivery:{delivery.id}") == -1
    (again,) = outbox.claim(10)
    assert again.id == delivery.id


def test_one_tenants_many_do_not_keep_another_waiting(
    outbox: Outbox, waiting: Callable[..., str]
) -> None:
    for _ in range(20):
        waiting("many")
    waiting("few")
    tenants = [each.tenant for each in outbox.claim(32)]
    assert sorted(tenants) == ["few", *["many"] * MOST_PER_TENANT]
    waiting("few")
    assert [each.tenant for each in outbox.claim(32)] == ["few"]


def test_a_tenants_dead_endpoint_does_not_fill_the_server(
    outbox: Outbox, waiting: Callable[..., str], redis: Redis
) -> None:
    later = time.time() * 1000 + 3_600_000
    redis.zadd("framepack:outbox:someone", {f"waits-{n}": later for n in range(10_000)})
    job_id = waiting()
    (given_up,) = outbox.of_job(job_id)
    assert (given_up.state, given_up.attempts) == ("failed", ())
    assert int(str(redis.zcard("framepack:outbox:someone"))) == 10_000
    assert outbox.claim(10) == []
    # Others are told as ever, and what was given up can be asked for.
    waiting("another")
    assert [each.tenant for each in outbox.claim(10)] == ["another"]
    outbox.replay("someone", job_id, given_up.id)
    assert [each.id for each in outbox.claim(10)] == [given_up.id]


def test_of_a_job_that_is_deleted_nothing_is_said_or_known(
    outbox: Outbox, waiting: Callable[..., str], redis: Redis
) -> None:
    gone, stays = waiting(), waiting()
    (taken, *_) = outbox.claim(1)
    outbox.forget("someone", gone)
    assert taken.job_id == gone
    assert not outbox.settle(taken, Outcome(attempt(500), "failed", again_ms=0))
    assert outbox.of_job(gone) == []
    assert [
        name for name in redis.scan_iter("*") if gone in str(name) and "deliver" in str(name)
    ] == []
    assert [each.job_id for each in outbox.claim(10)] == [stays]


def test_nothing_is_left_of_what_is_done(
    outbox: Outbox, waiting: Callable[..., str], redis: Redis
) -> None:
    waiting()
    for delivery in outbox.claim(10):
        outbox.settle(delivery, Outcome(attempt(), "delivered"))
    assert list(redis.scan_iter("framepack:outbox*")) == []
    month = 30 * 24 * 3600
    for key in redis.scan_iter("framepack:*deliver*"):
        assert 0 < int(str(redis.ttl(key))) <= month


def test_secrets_are_made_once_and_overlap_when_rotated(endpoints: Endpoints, redis: Redis) -> None:
    first = endpoints.secrets("someone")
    assert first.current.startswith("whsec_")
    assert endpoints.secrets("someone") == first
    assert endpoints.secrets("another").current != first.current
    second = endpoints.secrets("someone", rotate=True)
    assert second.all == [second.current, first.current]
    redis.hset("framepack:hooks:someone:secret", "until", "1")
    assert endpoints.secrets("someone").all == [second.current]


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[LossyProxy]:
    valkey.empty()
    with LossyProxy(valkey.port) as proxy:
        yield proxy


def test_lost_answers_change_nothing_twice(proxy: LossyProxy) -> None:
    with connect(f"redis://127.0.0.1:{proxy.port}/0") as client:
        client.ping()
        record, outbox, endpoints = Record(client), Outbox(client), Endpoints(client)
        for mark, call in (
            (b"register", lambda: endpoints.register("someone", Webhook(url=URL, events=ALL))),
            (b"rotate", lambda: endpoints.secrets("someone", rotate=True)),
            (b"submit", lambda: record.submit(spec_with())),
        ):
            proxy.lose_the_answer_to(mark)
            call()
        assert len(endpoints.all_of("someone")) == 1
        assert endpoints.secrets("someone").previous is None
        (delivery,) = outbox.claim(10)
        proxy.lose_the_answer_to(b"settle")
        outbox.settle(delivery, Outcome(attempt(500), "failed", again_ms=60_000))
        assert proxy.lost == 4
        (found,) = outbox.of_job(delivery.job_id)
        assert (found.tries, len(found.attempts)) == (1, 1)
