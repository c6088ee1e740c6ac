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

from service.api.deps import Services, TheServices
from service.api.errors import ApiProblem, documented
from service.api.representation import job_view, video_view
from service.api.schemas import EVENTS_TOLD, STREAM_EXAMPLE
from service.api.view_tokens import ViewedJob
from service.contract.eventlog import Passing
from service.contract.events import COMPLETED, SECTION_COMPLETED, StepEvent
from service.contract.job import Artifact, Clip, Event, JobSpec
from service.contract.views import EventView, JobView, utc

log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])

HEARTBEAT_SECONDS = 15
SECONDS_TO_SEND = 20
SECONDS_BETWEEN_TRIES = 1.0
RECONNECT_MILLISECONDS = 2000
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
        **documented(400, 401, 404, 422, 500, 503),
    },
)
async def follow_job(
    spec: ViewedJob,
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
    if known is not None:
        # Who comes back needs no view of the job; after an outage that is everybody at once.
        job = await run_in_threadpool(parts.record.get, spec.id)
        if job.status.terminal and known >= job.last_sequence:
            return Response(status_code=204)
        # An id from the future would wait for ever.
        known = min(known, job.last_sequence)
    view = await run_in_threadpool(job_view, parts, spec) if known is None else None
    return EventStream(
        _events(parts, spec, view, known or 0),
        ping=HEARTBEAT_SECONDS,
        ping_message_factory=lambda: ServerSentEvent(comment="alive"),
        send_timeout=SECONDS_TO_SEND,
    )


def _sequence(last_event_id: str | None) -> int | None:
    """The event a client saw last, or None if it is new here."""
    if last_event_id is None:
        return None
    if not _EVENT_ID.fullmatch(last_event_id):
        raise ApiProblem("invalid_event_id", "Send the id of an event of this job.")
    return int(last_event_id)


async def _events(
    parts: Services, spec: JobSpec, view: JobView | None, after: int
) -> AsyncIterator[ServerSentEvent]:
    """What a client is told: a snapshot first, if there is a view, then what comes after."""
    with parts.metrics.sse_clients.track_inprogress():
        if view is not None:
            yield _snapshot(view)
            if view.status.terminal:
                return
            after = view.last_sequence
        async for event in _through_outages(parts, spec.id, after):
            yield _message(parts, spec, event)


async def _through_outages(
    parts: Services, job_id: str, after: int
) -> AsyncIterator[Event | Passing]:
    """A job's events; while Redis is away the clients wait here instead of all coming back."""
    while True:
        try:
            async with parts.hub.follow(job_id, after) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Event):
                        after = event.sequence
            return
        except RedisError as error:
            log.warning("an event stream waits for Redis: %s", type(error).__name__)
            await asyncio.sleep(SECONDS_BETWEEN_TRIES)


def _snapshot(view: JobView) -> ServerSentEvent:
    event = EventView(
        job_id=view.id,
        sequence=view.last_sequence,
        type="snapshot",
        data=view.model_dump(mode="json"),
    )
    return _encoded(event, retry=RECONNECT_MILLISECONDS)


def _message(parts: Services, spec: JobSpec, event: Event | Passing) -> ServerSentEvent:
    if isinstance(event, Passing):
        data = event.model_dump(mode="json", exclude={"job_id"})
        kind = "step" if isinstance(event, StepEvent) else "preview"
        return _encoded(EventView(job_id=event.job_id, type=kind, data=data))
    shown = dict(event.data)
    if event.type == SECTION_COMPLETED:
        clip = Clip(section=shown["section"], artifact=Artifact(**shown["clip"]))
        # Signed by arithmetic alone, once for all clients: a thread would cost more than it saves.
        shown["clip"] = parts.links.clip(event.job_id, clip).model_dump(mode="json")
    elif event.type == COMPLETED:
        shown["video"] = video_view(spec, Artifact(**shown["video"])).model_dump(mode="json")
    return _encoded(
        EventView(
            job_id=event.job_id,
            sequence=event.sequence,
            type=event.type,
            at=utc(event.at),
            data=shown,
        )
    )


def _encoded(event: EventView, retry: int | None = None) -> ServerSentEvent:
    event_id = None if event.sequence is None else str(event.sequence)
    text = event.model_dump_json(exclude_none=True)
    return ServerSentEvent(text, event=event.type, id=event_id, retry=retry)
