"""Webhooks as the API shows them: endpoints, signing secrets, and the log of deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from service.contract.outbox import State
from service.contract.views import View


class EndpointView(View):
    """Where a tenant is told of all its jobs.

    Attributes:
        disabled_at: When it answered 410 Gone; it is told nothing since.
    """

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None = None


class EndpointsView(View):
    """All of a tenant's endpoints, the oldest first."""

    object: Literal["list"] = "list"
    data: list[EndpointView]


class SecretView(View):
    """What a tenant's messages are signed with.

    Attributes:
        previous: Signs as well until `previous_until`, so that receivers can be moved over.
    """

    secret: str
    previous: str | None = None
    previous_until: datetime | None = None


class AttemptView(View):
    """One try to deliver.

    Attributes:
        status: What the receiver answered, if it did.
        error: Why there was no answer.
    """

    at: datetime
    took_ms: int
    status: int | None = None
    error: str | None = None


class DeliveryView(View):
    """One message to one endpoint.

    Attributes:
        id: The message's `webhook-id`.
        webhook: The endpoint's id, or `job` for the webhook of the request.
        state: waiting, delivered, or failed for good.
        next_attempt_at: While it waits.
    """

    id: str
    object: Literal["delivery"] = "delivery"
    webhook: str
    url: str
    event: str
    sequence: int
    created_at: datetime
    state: State
    next_attempt_at: datetime | None = None
    attempts: list[AttemptView]


class DeliveriesView(View):
    """A job's deliveries, in the order of its events."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]
