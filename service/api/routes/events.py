"""A job's events as they happen (server-sent events).

On connect a `snapshot` of the job, or with `Last-Event-ID` whatever happened since; then live. Ids
are the sequence numbers of the job's event stream. Steps are not kept and carry no id. After the
job's end the stream ends, and asking again is answered 204, which tells a browser to stop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from redis.exceptions import RedisError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from service.api.deps import Services, TheServices, telling_of_expired
from service.api.errors import ApiProblem, documented
from service.api.representation import job_view
from service.api.schemas import EVENTS_TOLD, STREAM_EXAMPLE
from service.api.view_tokens import FollowedJob
from service.contract.errors import JobNotFound
from service.contract.eventlog import Passing
from service.contract.events import TERMINAL
from service.contract.job import Event, JobSpec
from service.contract.views import JobView

log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])

HEARTBEAT_SECONDS = 15
SECONDS_TO_SEND = 20
SECONDS_BETWEEN_TRIES = 1.0
_EVENT_ID = re.compile(r"[0-9]{1,15}")
_ID_SCHEMA = {"type": "string", "pattern": f"^{_EVENT_ID.pattern}$"}
"""Told and not left to FastAPI to check, since a wrong id has a problem of its own."""


class EventStream(EventSourceResponse):
    """Ends quietly for a client that does not read; it can come back and resume."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("closed an event stream whose client did not read")


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventStream,
    responses={
        200: {
            "description": EVENTS_TOLD,
            "content": {"text/event-stream": {"example": STREAM_EXAMPLE}},
        },
        204: {"description": "The job has ended and nothing is left to tell."},
        **documented(400, 401, 404, 410, 422, 500, 503),
    },
)
async def follow_job(
    spec: FollowedJob,
    parts: TheServices,
    last_event_id: Annotated[str | None, Header(json_schema_extra=_ID_SCHEMA)] = None,
    after: Annotated[
        str | None,
        Query(
            description="As `Last-Event-ID`, for a first connection.", json_schema_extra=_ID_SCHEMA
        ),
    ] = None,
) -> Response:
    """Follow a job.

    A browser's EventSource cannot send a key: give it the URL of `GET /jobs/{job_id}/token`.
    """
    known = _sequence(after if last_event_id is None else last_event_id)
    view = None
    if known is None:
        view = await run_in_threadpool(_view, parts, spec)
    else:
        # Who comes back needs no view of the job; after an outage that is everybody at once.
        last = await parts.hub.last(spec.id)
        if last is None:
            # The job is gone; this says whether it expired.
            await run_in_threadpool(_view, parts, spec)
            raise JobNotFound(spec.id)
        if last.type in TERMINAL and known >= last.sequence:
            return Response(status_code=204)
        # An id from the future would wait for ever.
        known = min(known, last.sequence)
    return EventStream(
        _events(parts, spec, view, known or 0),
        ping=HEARTBEAT_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="alive"),
        send_timeout=SECONDS_TO_SEND,
    )


def _view(parts: Services, spec: JobSpec) -> JobView:
    """The job as it is now. Raises JobNotFound, JobExpired."""
    with telling_of_expired(parts, spec.tenant, spec.id):
        try:
            return job_view(parts, spec)
        except JobNotFound:
            parts.followed.forget(spec.id)
            raise


def _sequence(last_event_id: str | None) -> int | None:
    """The event a client saw last, or None if it is new here."""
    if last_event_id is None:
        return None
    if not _EVENT_ID.fullmatch(last_event_id):
        raise ApiProblem("invalid_event_id", "Send the id of an event of this job.")
    return int(last_event_id)


async def _events(
    parts: Services, spec: JobSpec, view: JobView | None, after: int
) -> AsyncIterator[bytes]:
    """What a client is told: a snapshot first, if there is a view, then what comes after."""
    with parts.metrics.sse_clients.track_inprogress():
        if view is not None:
            yield parts.messages.snapshot(view)
            if view.status.terminal:
                return
            after = view.last_sequence
        async for batch in _through_outages(parts, spec.id, after):
            yield parts.messages.batch(spec, batch)


async def _through_outages(
    parts: Services, job_id: str, after: int
) -> AsyncIterator[list[Event | Passing]]:
    """A job's events; while Redis is away the clients wait here instead of all coming back."""
    while True:
        try:
            async with parts.hub.batches(job_id, after) as batches:
                async for batch in batches:
                    yield batch
                    after = max([after, *(e.sequence for e in batch if isinstance(e, Event))])
            return
        except RedisError as error:
            log.warning("an event stream waits for Redis: %s", type(error).__name__)
            await asyncio.sleep(SECONDS_BETWEEN_TRIES)
