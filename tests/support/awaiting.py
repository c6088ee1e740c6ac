"""The async client driven by a blocking test, so that both clients pass the same tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from service.client import AsyncClient, Client


class Awaiting:
    """Calls an `AsyncClient` as if it were a `Client`."""

    def __init__(self, portal: BlockingPortal, client: AsyncClient) -> None:
        self._portal = portal
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if inspect.iscoroutinefunction(method):
                return self._portal.call(lambda: method(*arguments, **named))
            return self._each(method(*arguments, **named))

        return call

    def _each(self, found: Any) -> Iterator[Any]:
        nothing = object()

        async def following() -> Any:
            return await anext(found, nothing)

        try:
            while (value := self._portal.call(following)) is not nothing:
                yield value
        finally:
            self._portal.call(found.aclose)


class _Blocking(httpx.AsyncBaseTransport):
    """A blocking transport that needs no network, for the async client."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self._transport.handle_request(request)


@contextmanager
def open_client(kind: str, url: str, **options: Any) -> Iterator[Client]:
    """A client of either kind: `blocking` or `async`."""
    if kind == "blocking":
        with Client(url, **options) as blocking:
            yield blocking
        return
    if "transport" in options:
        options["transport"] = _Blocking(options["transport"])
    with start_blocking_portal() as portal:
        client = AsyncClient(url, **options)
        try:
            yield Awaiting(portal, client)  # type: ignore[misc]  # it has the same calls
        finally:
            portal.call(client.aclose)
