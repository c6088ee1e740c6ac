"""Webhooks: a tenant's endpoints and signing secret, and what became of a job's messages."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.api.deps import TheServices, owned_by
from service.api.errors import ApiProblem, documented
from service.api.webhooks.poster import require_reachable
from service.contract.access import Scope
from service.contract.endpoints import Endpoint, SigningSecrets
from service.contract.outbox import Delivery
from service.contract.views import View, utc
from service.contract.webhook import Webhook
from service.contract.webhook_views import (
    AttemptView,
    DeliveriesView,
    DeliveryView,
    EndpointsView,
    EndpointView,
    SecretView,
)

router = APIRouter(tags=["webhooks"])

_ENDPOINT = {
    "id": "5f2c91d0a7b3",
    "object": "webhook",
    "url": "https://example.org/hooks/framepack",
    "events": ["job.completed", "job.failed", "job.cancelled"],
    "created_at": "2026-11-23T10:00:00.120Z",
    "disabled_at": None,
}
_SECRET = {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw…", "previous": None}
_DELIVERY = {
    "id": "msg_9f0c2f1a5b7d4e61a3c8d2e4f6071829_12_5f2c91d0a7b3",
    "object": "delivery",
    "webhook": "5f2c91d0a7b3",
    "url": "https://example.org/hooks/framepack",
    "event": "job.completed",
    "sequence": 12,
    "created_at": "2026-11-23T10:02:11.009Z",
    "state": "waiting",
    "next_attempt_at": "2026-11-23T10:02:16.301Z",
    "attempts": [{"at": "2026-11-23T10:02:11.300Z", "took_ms": 180, "status": 503, "error": None}],
}


def webhooks_tenant(request: Request, parts: TheServices) -> str:
    """Who is asking, with a key that may."""
    caller = parts.callers.of(request)
    caller.require(Scope.WEBHOOKS)
    return caller.tenant


TheTenant = Annotated[str, Depends(webhooks_tenant)]


def _example(description: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.post(
    "/webhooks",
    status_code=201,
    response_model=EndpointView,
    responses={
        201: {
            **_example("It is told of all jobs from now on.", _ENDPOINT),
            "headers": {"Location": {"description": "It.", "schema": {"type": "string"}}},
        },
        **documented(400, 401, 408, 409, 413, 422, 500, 503),
    },
)
def register_webhook(webhook: Webhook, asking: TheTenant, parts: TheServices) -> Response:
    """Register an endpoint for all jobs of the tenant, at most ten.

    `events` are `job.queued`, `job.started`, `job.section.completed`, `job.completed`,
    `job.failed`, `job.cancelled`; without, the last three. A single job can name an endpoint of its
    own in its field `webhook`.
    """
    require_reachable(webhook.url, parts.settings.webhook_networks, "url")
    endpoint = parts.endpoints.register(asking, webhook)
    where = f"{parts.settings.public_url.rstrip('/')}/webhooks/{endpoint.id}"
    return _answer(_endpoint_view(endpoint), HTTPStatus.CREATED, {"Location": where})


@router.get(
    "/webhooks",
    response_model=EndpointsView,
    responses={
        200: _example("All of them.", {"object": "list", "data": [_ENDPOINT]}),
        **documented(401, 500, 503),
    },
)
def list_webhooks(asking: TheTenant, parts: TheServices) -> Response:
    """List the tenant's endpoints."""
    found = parts.endpoints.all_of(asking)
    return _answer(EndpointsView(data=[_endpoint_view(each) for each in found]))


@router.get(
    "/webhooks/secret",
    response_model=SecretView,
    responses={200: _example("The secret.", _SECRET), **documented(401, 500, 503)},
)
def read_secret(asking: TheTenant, parts: TheServices) -> Response:
    """Read the secret that signs the tenant's messages; it is made when first asked for."""
    return _answer(_secret_view(parts.endpoints.secrets(asking)))


@router.post(
    "/webhooks/secret/rotate",
    response_model=SecretView,
    responses={200: _example("The new secret.", _SECRET), **documented(401, 500, 503)},
)
def rotate_secret(asking: TheTenant, parts: TheServices) -> Response:
    """Replace the secret. For a day messages carry two signatures, one by the old secret."""
    return _answer(_secret_view(parts.endpoints.secrets(asking, rotate=True)))


@router.get(
    "/webhooks/{webhook_id}",
    response_model=EndpointView,
    responses={200: _example("The endpoint.", _ENDPOINT), **documented(401, 404, 500, 503)},
)
def read_webhook(webhook_id: str, asking: TheTenant, parts: TheServices) -> Response:
    """Read an endpoint."""
    return _answer(_endpoint_view(parts.endpoints.get(asking, webhook_id)))


@router.delete(
    "/webhooks/{webhook_id}",
    status_code=204,
    responses={204: {"description": "It is told nothing more."}, **documented(401, 404, 500, 503)},
)
def remove_webhook(webhook_id: str, asking: TheTenant, parts: TheServices) -> Response:
    """Remove an endpoint. What was waiting for it already is still sent."""
    parts.endpoints.remove(asking, webhook_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get(
    "/jobs/{job_id}/deliveries",
    response_model=DeliveriesView,
    responses={
        200: _example("All of them.", {"object": "list", "data": [_DELIVERY]}),
        **documented(401, 404, 410, 500, 503),
    },
)
def list_deliveries(job_id: str, asking: TheTenant, parts: TheServices) -> Response:
    """Read what became of a job's messages: every try, what was answered, and when the next is."""
    owned_by(parts, asking, job_id)
    found = parts.outbox.of_job(job_id)
    return _answer(DeliveriesView(data=[_delivery_view(each) for each in found]))


@router.post(
    "/jobs/{job_id}/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=DeliveryView,
    responses={
        202: _example("It is sent again, at once.", _DELIVERY),
        **documented(401, 404, 410, 500, 503),
    },
)
def replay_delivery(
    job_id: str, delivery_id: str, asking: TheTenant, parts: TheServices
) -> Response:
    """Send a message once more, under the same `webhook-id`, whatever became of it before."""
    owned_by(parts, asking, job_id)
    found = None
    if _DELIVERY_ID.fullmatch(delivery_id):
        found = parts.outbox.replay(asking, job_id, delivery_id)
    if found is None:
        raise ApiProblem("delivery_not_found", "This job has no such delivery.")
    return _answer(_delivery_view(found), HTTPStatus.ACCEPTED)


_DELIVERY_ID = re.compile(r"msg_[0-9a-f]{32}_\d{1,15}_[0-9a-z]{1,12}")


def _answer(
    view: View, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(view.model_dump(mode="json"), status, headers)


def _endpoint_view(endpoint: Endpoint) -> EndpointView:
    return EndpointView(
        id=endpoint.id,
        url=endpoint.url,
        events=list(endpoint.events),
        created_at=utc(endpoint.created_at),
        disabled_at=None if endpoint.disabled_at is None else utc(endpoint.disabled_at),
    )


def _secret_view(secrets: SigningSecrets) -> SecretView:
    until = secrets.previous_until
    return SecretView(
        secret=secrets.current,
        previous=secrets.previous,
        previous_until=None if until is None else utc(until),
    )


def _delivery_view(delivery: Delivery) -> DeliveryView:
    attempts = [
        AttemptView(at=utc(each.at), took_ms=each.took_ms, status=each.status, error=each.error)
        for each in delivery.attempts
    ]
    return DeliveryView(
        id=delivery.id,
        webhook=delivery.hook,
        url=delivery.url,
        event=delivery.event,
        sequence=delivery.sequence,
        created_at=utc(delivery.at),
        state=delivery.state,
        next_attempt_at=None if delivery.due_at is None else utc(delivery.due_at),
        attempts=attempts,
    )
