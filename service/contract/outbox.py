"""Deliveries: what webhooks still have to say, and what became of what they said.

``record_outbox.lua`` writes a delivery in the step that emits its event. Any number of gateways
claim what is due; a claim is a lease, so a delivery whose sender died is sent again, with the same
id: at least once, and receivers drop what they know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from redis import Redis

from service.contract.endpoints import SCRIPT
from service.contract.script import Script

LEASE_MS = 60_000
MOST_PER_TENANT = 4
"""Sent at once for one tenant, so that one whose endpoint hangs keeps no other waiting."""

MOST_LOGGED = 20
MINUTE, HOUR = 60.0, 3600.0
RETRY_SECONDS = (5.0, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24)))
"""Pauses between tries, as Standard Webhooks suggests: three days in all."""

State = Literal["waiting", "delivered", "failed"]


@dataclass(frozen=True)
class Attempt:
    """One try. At is milliseconds since the epoch.

    Attributes:
        status: What the receiver answered, if it did.
        error: Why there is no answer, in words.
    """

    at: int
    took_ms: int
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Delivery:
    """One message to one endpoint.

    Attributes:
        id: The message's id, the same at every try.
        hook: The endpoint's id, or ``job`` for the job's own webhook.
        at: When the event happened, in milliseconds since the epoch.
        data: The event's own fields.
        tries: Attempts since the beginning or the last replay.
        attempt: Number of this claim; whoever settles must have the latest.
        due_at: When it is sent next, while it waits.
        metadata: The caller's own words about the job.
    """

    id: str
    tenant: str
    job_id: str
    hook: str
    url: str
    event: str
    sequence: int
    at: int
    data: Mapping[str, Any]
    tries: int
    attempt: int
    state: State
    attempts: tuple[Attempt, ...]
    due_at: int | None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        state: What becomes of the delivery if it is not tried again.
        again_ms: After this long it is tried again; None: never.
        disable: The endpoint is gone and is told nothing more.
    """

    attempt: Attempt
    state: State
    again_ms: int | None = None
    disable: bool = False


class Outbox:
    """All deliveries of one Redis server."""

    def __init__(self, redis: Redis) -> None:
        self._script = Script(redis, *SCRIPT)

    def claim(self, limit: int, lease_ms: int = LEASE_MS) -> list[Delivery]:
        """Take deliveries that are due, at most so many; nobody else gets them before the lease."""
        answer = self._script.call("claim", limit=limit, each=MOST_PER_TENANT, lease_ms=lease_ms)
        return [_delivery(found) for found in answer["deliveries"] or ()]

    def settle(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Say how an attempt ended; false if the lease was over and another has it."""
        attempt = outcome.attempt
        said = {"again_ms": outcome.again_ms, "status": attempt.status, "error": attempt.error}
        answer = self._script.call(
            "settle",
            id=delivery.id,
            attempt=delivery.attempt,
            state=outcome.state,
            took_ms=attempt.took_ms,
            disable=outcome.disable,
            most_logged=MOST_LOGGED,
            # A null of JSON is not Lua's nil.
            **{name: value for name, value in said.items() if value is not None},
        )
        return bool(answer["settled"])

    def replay(self, tenant: str, job_id: str, delivery_id: str) -> Delivery | None:
        """Send a delivery once more, at once; None if the job has no such delivery."""
        answer = self._script.call("replay", tenant=tenant, job=job_id, id=delivery_id)
        return _delivery(answer["delivery"]) if answer else None

    def of_job(self, job_id: str) -> list[Delivery]:
        """A job's deliveries, in the order of its events."""
        found = self._script.call("of_job", job=job_id)["deliveries"]
        return [_delivery(each) for each in found or ()]

    def forget(self, tenant: str, job_id: str) -> None:
        """Drop all deliveries of a job that is deleted, sent or not."""
        self._script.call("forget", tenant=tenant, job=job_id)


def _delivery(found: Mapping[str, Any]) -> Delivery:
    log = json.loads(found.get("log") or "[]")
    due = found.get("due")
    return Delivery(
        id=found["id"],
        tenant=found["tenant"],
        job_id=found["job"],
        hook=found["hook"],
        url=found["url"],
        event=found["event"],
        sequence=int(found["sequence"]),
        at=int(found["at"]),
        data=json.loads(found["data"]) or {},
        tries=int(found["tries"]),
        attempt=int(found["attempt"]),
        state=found["state"],
        attempts=tuple(Attempt(**each) for each in log),
        due_at=None if due is None else int(due),
        metadata=json.loads(found.get("metadata") or "{}"),
    )
