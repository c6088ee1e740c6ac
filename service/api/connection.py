"""One client's connection, with an end to the waiting for a request's head.

uvicorn bounds how long a connection rests between requests and how large a head may be, but waits
for a head that has begun for as long as its sender likes, so a stranger could hold connections
with a byte now and then. A proxy in front ends such heads sooner; a gateway without one stays well.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_FOR_HEAD = 15.0
MAX_HEAD_BYTES = 32 * 1024


class Connection(H11Protocol):
    """Closes the connection when a head is not whole in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._expect_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(SECONDS_FOR_HEAD, self.transport.close)

    def _forget_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
