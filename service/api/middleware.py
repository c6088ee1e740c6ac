"""What happens to every request, as plain ASGI (no buffering, so event streams pass through)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiProblem, answer_for, unexpected_response
from service.api.metrics import GatewayMetrics
from service.contract.logs import about
from service.contract.tracing import continuing

log = logging.getLogger(__name__)

MAX_DISCARDED_BYTES = 64 * 1024 * 1024
SECONDS_FOR_BODY = 300.0
SECONDS_BETWEEN_PIECES = 20.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Observe:
    """Names every request, counts and logs it, and sets the headers all answers share.

    An error that nothing below translated becomes a 500 problem here, so that even that answer has
    its id and is counted.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        scope["request_id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        watched = _Watched(scope, send, self._metrics)
        with (
            self._metrics.in_progress.track_inprogress(),
            about(request_id=scope["request_id"]),
            continuing(headers.get("traceparent", "")),
        ):
            try:
                await self._app(scope, receive, watched.send)
            except Exception as error:
                if watched.status is not None:
                    raise
                await unexpected_response(error, scope)(scope, receive, watched.send)


class _Watched:
    """One answer on its way out."""

    def __init__(self, scope: Scope, send: Send, metrics: GatewayMetrics) -> None:
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._metrics = metrics
        self._start = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._scope["request_id"]
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            self._count(message["status"])
        await self._send(message)

    def _count(self, status: int) -> None:
        seconds = time.perf_counter() - self._start
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        route = getattr(self._scope.get("route"), "path", "none")
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        # The template, not the path: signed links carry their signature in the query.
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(1e3 * seconds, 1),
        }
        log.info("%(method)s %(route)s %(status)d %(duration_ms)s ms", fields, extra=fields)


class LimitBody:
    """Answers 413 to a body over the limit, its length declared or not, and 408 to a slow one.

    Args:
        limit_of: The limit in bytes for a request, given its scope.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[Scope], int]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope)
        receive = _in_time(receive)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            await _discard(receive)
            await answer_for(scope, _too_large(limit))(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)


def _in_time(receive: Receive) -> Receive:
    """What is received until the body has ended must come soon; what comes after it may take time.

    A client that sends a little now and then would keep a connection, and what came so far, for as
    long as it likes.
    """
    ends = time.monotonic() + SECONDS_FOR_BODY
    waiting = True

    async def in_time() -> Message:
        nonlocal waiting
        if not waiting:
            return await receive()
        left = min(SECONDS_BETWEEN_PIECES, ends - time.monotonic())
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            detail = (
                f"A body must be whole within {SECONDS_FOR_BODY:g} s, "
                f"without a pause of {SECONDS_BETWEEN_PIECES:g} s."
            )
            raise ApiProblem("body_too_slow", detail, headers={"Connection": "close"}) from None
        waiting = bool(message.get("more_body"))
        return message

    return in_time


def _counted(receive: Receive, limit: int) -> Receive:
    total = 0

    async def counted() -> Message:
        nonlocal total
        message: dict[str, Any] = dict(await receive())
        total += len(message.get("body", b""))
        if total > limit:
            if message.get("more_body"):
                await _discard(receive)
            raise _too_large(limit)
        return message

    return counted


async def _discard(receive: Receive) -> None:
    """Read on, within reason: a client that is still sending does not see an answer before."""
    total = 0
    while total < MAX_DISCARDED_BYTES:
        message = await receive()
        total += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def _too_large(limit: int) -> ApiProblem:
    return ApiProblem(
        "body_too_large",
        f"The body of this request must not be larger than {limit} bytes.",
        headers={"Connection": "close"},
    )
