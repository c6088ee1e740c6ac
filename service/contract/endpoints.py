"""A tenant's endpoints, which are told of all its jobs, and the secret that signs its messages.

The form on the wire is that of Standard Webhooks (github.com/standard-webhooks): a secret reads
``whsec_`` and base64. It signs, so it cannot be kept as a hash; it lies in Redis as jobs do.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from service.contract.errors import ContractError
from service.contract.script import Script
from service.contract.webhook import Webhook

SCRIPT = ("record_base.lua", "record_outbox.lua", "outbox.lua")

MOST_ENDPOINTS = 10
OVERLAP_MS = 24 * 3600 * 1000
"""After a rotation the old secret signs along for a day."""

SECRET_BYTES = 32


@dataclass(frozen=True)
class Endpoint:
    """A tenant's endpoint. Times are milliseconds since the epoch.

    Attributes:
        disabled_at: When it answered 410 Gone, since when it is told nothing.
    """

    id: str
    url: str
    events: tuple[str, ...]
    created_at: int
    disabled_at: int | None = None


@dataclass(frozen=True)
class SigningSecrets:
    """What a tenant's messages are signed with; the previous one until a time in milliseconds."""

    current: str
    previous: str | None = None
    previous_until: int | None = None

    @property
    def all(self) -> Sequence[str]:
        """The newest first."""
        return [self.current] if self.previous is None else [self.current, self.previous]


class TooManyEndpoints(ContractError):  # noqa: N818
    """The tenant has as many endpoints as it may have."""


class EndpointNotFound(ContractError):  # noqa: N818
    """No such endpoint, or not this tenant's."""


class Endpoints:
    """All tenants' endpoints and secrets."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = Script(redis, *SCRIPT)

    def register(self, tenant: str, webhook: Webhook) -> Endpoint:
        """Tell an endpoint of all of a tenant's jobs from now on.

        Raises:
            TooManyEndpoints: There are ten already.
        """
        answer = self._script.call(
            "register",
            tenant=tenant,
            id=secrets.token_hex(6),
            url=webhook.url,
            events=list(webhook.events),
            most=MOST_ENDPOINTS,
        )
        if answer.get("full"):
            raise TooManyEndpoints(tenant)
        return _endpoint(answer["endpoint"])

    def all_of(self, tenant: str) -> list[Endpoint]:
        """The tenant's endpoints, the oldest first."""
        found = self._script.call("endpoints", tenant=tenant)["endpoints"] or ()
        return sorted(map(_endpoint, found), key=lambda each: (each.created_at, each.id))

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """One of them. Raises EndpointNotFound."""
        for endpoint in self.all_of(tenant):
            if endpoint.id == endpoint_id:
                return endpoint
        raise EndpointNotFound(endpoint_id)

    def remove(self, tenant: str, endpoint_id: str) -> None:
        """Tell it nothing more; what waits for it is still sent. Raises EndpointNotFound."""
        if not self._script.call("unregister", tenant=tenant, id=endpoint_id)["removed"]:
            raise EndpointNotFound(endpoint_id)

    def secrets(self, tenant: str, *, rotate: bool = False) -> SigningSecrets:
        """What the tenant's messages are signed with; made when it is first asked for."""
        fresh = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        answer = self._script.call(
            "secret", tenant=tenant, fresh=fresh, rotate=rotate, overlap_ms=OVERLAP_MS
        )
        return SigningSecrets(answer["current"], answer.get("previous"), answer.get("until_ms"))


def _endpoint(found: Mapping[str, Any]) -> Endpoint:
    disabled = found.get("disabled")
    return Endpoint(
        id=found["id"],
        url=found["url"],
        events=tuple(found["events"]),
        created_at=int(found["created"]),
        disabled_at=None if disabled is None else int(disabled),
    )
