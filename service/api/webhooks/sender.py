"""Sends what waits in the outbox: signed, guarded, tried again with pauses that grow.

Every gateway runs a sender and all share the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import httpcore
from redis.exceptions import RedisError

from service.api.metrics import GatewayMetrics
from service.api.webhooks.guard import Forbidden, Network
from service.api.webhooks.message import body_of, signatures
from service.api.webhooks.poster import Poster
from service.contract.endpoints import Endpoints
from service.contract.outbox import Attempt, Delivery, Outbox, Outcome
from service.contract.tracing import current_traceparent, working

log = logging.getLogger(__name__)

MOST_AT_ONCE = 32
SECONDS_BETWEEN_LOOKS = 1.0
_CHANCE = random.SystemRandom()
JITTER = 0.1
"""Pauses are up to so much longer, so that what failed together does not come back together."""


@dataclass(frozen=True)
class SenderPolicy:
    """What a sender goes by.

    Attributes:
        public_url: Where clients reach the gateway.
        networks: Private networks that webhooks may reach, and without TLS.
        retry_seconds: Pauses before the second, third, ... try.
        traceparent_of: Of a job by its id; empty for one that is not traced.
    """

    public_url: str
    networks: Sequence[Network]
    retry_seconds: Sequence[float]
    traceparent_of: Callable[[str], str] = lambda job_id: ""


class Sender:
    """Sends deliveries until it is stopped; outlives any outage of Redis."""

    def __init__(
        self,
        outbox: Outbox,
        endpoints: Endpoints,
        metrics: GatewayMetrics,
        policy: SenderPolicy,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._outbox = outbox
        self._endpoints = endpoints
        self._metrics = metrics
        self._policy = policy
        self._tls = tls
        self._sending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send in the background for the length of a with block.

        What is being sent at its end is cut off, and sent again by whoever finds it due.
        """
        poster = Poster(self._policy.networks, self._tls)
        loop = asyncio.create_task(self._run(poster), name="webhooks")
        try:
            yield
        finally:
            for task in (loop, *self._sending):
                task.cancel()
            await asyncio.gather(loop, *self._sending, return_exceptions=True)
            await poster.close()

    async def _run(self, poster: Poster) -> None:
        while True:
            claimed = await asyncio.to_thread(self._claim, MOST_AT_ONCE - len(self._sending))
            for delivery in claimed:
                task = asyncio.create_task(self._send(poster, delivery))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            if not claimed:
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def _claim(self, limit: int) -> list[Delivery]:
        if limit <= 0:
            return []
        try:
            return self._outbox.claim(limit)
        except RedisError as error:
            log.warning("no webhooks can be looked for: %s", type(error).__name__)
        except Exception:  # the one loop that must never end
            log.exception("looking for webhooks failed")
        return []

    async def _send(self, poster: Poster, delivery: Delivery) -> None:
        try:
            secrets = await asyncio.to_thread(self._endpoints.secrets, delivery.tenant)
            origin = await asyncio.to_thread(self._policy.traceparent_of, delivery.job_id)
            with working("webhook", origin, _described(delivery)) as span:
                attempt = await self._attempt(poster, delivery, secrets.all)
                span.set_attribute("http.response.status_code", attempt.status or 0)
            outcome = outcome_of(attempt, delivery.tries, self._policy.retry_seconds)
            if await asyncio.to_thread(self._outbox.settle, delivery, outcome):
                self._count(outcome)
        except RedisError as error:
            # The lease ends, and it is sent again.
            log.warning("a webhook's outcome was not noted: %s", type(error).__name__)
        except Exception:
            log.exception("sending a webhook failed")

    async def _attempt(self, poster: Poster, delivery: Delivery, secrets: Sequence[str]) -> Attempt:
        body = body_of(delivery, self._policy.public_url)
        now, started = int(time.time()), time.perf_counter()
        headers = {
            "content-type": "application/json",
            "user-agent": "framepack-webhooks/1",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signatures(secrets, delivery.id, now, body),
        }
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        status, error = None, None
        try:
            status = await poster.post(delivery.url, headers, body)
        except Forbidden as forbidden:
            error = str(forbidden)
        except (TimeoutError, httpcore.TimeoutException):
            error = "no answer in time"
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as failed:
            error = _reason(failed)
        took = time.perf_counter() - started
        self._metrics.webhook_seconds.observe(took)
        return Attempt(int(1000 * time.time()), int(1000 * took), status, error)

    def _count(self, outcome: Outcome) -> None:
        word = "retried" if outcome.again_ms is not None else outcome.state
        self._metrics.webhooks.labels(word).inc()


def _described(delivery: Delivery) -> dict[str, str | int]:
    """A delivery as a span shows it; its URL may hold a receiver's secret."""
    numbers = {"framepack.webhook.tries": delivery.tries}
    return {
        "messaging.message.id": delivery.job_id,
        "framepack.webhook.event": delivery.event,
        **numbers,
    }


def _reason(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, httpcore.NetworkError) else error
    if isinstance(cause or error, ssl.SSLError) or "certificate" in str(error).lower():
        return "the certificate does not fit or TLS failed"
    return "no connection, or it broke"


def outcome_of(attempt: Attempt, tries: int, retry_seconds: Sequence[float]) -> Outcome:
    """What follows from an attempt: done, again after a pause, or given up.

    Args:
        attempt: The attempt.
        tries: Attempts before it.
        retry_seconds: Pauses before the second, third, ... try.
    """
    if attempt.status is not None and 200 <= attempt.status < 300:
        return Outcome(attempt, "delivered")
    if attempt.status == 410:
        return Outcome(attempt, "failed", disable=True)
    if tries >= len(retry_seconds):
        return Outcome(attempt, "failed")
    pause = retry_seconds[tries] * (1 + JITTER * _CHANCE.random())
    return Outcome(attempt, "failed", again_ms=int(1000 * pause))
