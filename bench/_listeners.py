"""Many clients of event streams at once, which note what they got and when. For `bench load`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from bench._wire import Line, request

_ID = re.compile(rb"^id: (\d+)\r?$", re.MULTILINE)
_END = b"0\r\n\r\n"
"""Of a chunked body; the connection itself stays open."""
MOST_CONNECTING = 256


@dataclass
class Listener:
    """One client of one job's stream, over any number of connections."""

    job_id: str
    seen: list[tuple[int, float]] = field(default_factory=list)
    line: Line | None = None

    @property
    def last(self) -> int | None:
        """The id it would come back with."""
        return self.seen[-1][0] if self.seen else None

    async def connect(self, port: int) -> None:
        """Connect, from after the last event known."""
        headers = {"Accept": "text/event-stream"}
        if self.last is not None:
            headers["Last-Event-ID"] = str(self.last)
        self.line = await Line.open(port)
        head = await self.line.send(request("GET", f"/jobs/{self.job_id}/events", headers))
        status = head.partition(b"\r\n")[0]
        if b" 204 " in status:
            # Nothing is left to tell; what is missing now counts as lost.
            self.hang_up()
        elif b" 200 " not in status:
            raise RuntimeError(status.decode())

    async def listen(self, until: int) -> None:
        """Note events until one number has come, or the connection ends."""
        assert self.line is not None
        while (self.last or 0) < until:
            try:
                block = await self.line.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            if block.lstrip(b"\r\n") == _END:
                return
            found = _ID.search(block)
            if found is not None:
                self.seen.append((int(found[1]), time.time()))

    def hang_up(self) -> None:
        """Close the connection without a word."""
        if self.line is not None:
            self.line.close()


@dataclass(frozen=True)
class Following:
    """A crowd that connects and listens.

    Attributes:
        connected: Done when the last one is connected: seconds since the first began.
        ended: Done when all have heard what they wait for, or were cut off.
    """

    connected: asyncio.Task[float]
    ended: asyncio.Future[list[None]]


@dataclass
class Crowd:
    """All listeners, and what they should have heard.

    Attributes:
        emitted: When each event of each job was about to happen, in seconds since the epoch.
    """

    listeners: list[Listener]
    emitted: dict[str, dict[int, float]]

    def follow(self, port: int, until: int) -> Following:
        """Let all connect at once; each listens from when it is connected until it has so much."""
        began = time.perf_counter()
        gate = asyncio.Semaphore(MOST_CONNECTING)

        async def connect(listener: Listener) -> None:
            async with gate:
                await listener.connect(port)

        connecting = [asyncio.create_task(connect(each)) for each in self.listeners]

        async def connected() -> float:
            await asyncio.gather(*connecting)
            return time.perf_counter() - began

        async def listen(listener: Listener, connection: asyncio.Task[None]) -> None:
            await connection
            await listener.listen(until)

        listening = zip(self.listeners, connecting, strict=True)
        tasks = [asyncio.create_task(listen(*each)) for each in listening]
        return Following(asyncio.create_task(connected()), asyncio.gather(*tasks))

    def hang_up(self) -> None:
        """All go at once."""
        for listener in self.listeners:
            listener.hang_up()

    def told(self, events: int) -> dict[str, object]:
        """How much arrived, for a result; `events` is the number of each job's last event."""
        heard = [[number for number, _ in listener.seen] for listener in self.listeners]
        lost = sum(len(set(range(1, events + 1)) - set(numbers)) for numbers in heard)
        doubled = sum(len(numbers) - len(set(numbers)) for numbers in heard)
        return {
            "clients": len(self.listeners),
            "events_delivered": sum(map(len, heard)),
            "events_expected": events * len(self.listeners),
            "lost": lost,
            "doubled": doubled,
            "in_order": all(numbers == sorted(numbers) for numbers in heard),
            **self._delays(),
        }

    def _delays(self) -> dict[str, float]:
        delays: Sequence[float] = [
            at - self.emitted[listener.job_id][number]
            for listener in self.listeners
            for number, at in listener.seen
            if number in self.emitted[listener.job_id]
        ]
        percent = quantiles(delays, n=100)
        return {
            "delivery_p50_ms": round(1e3 * percent[49], 1),
            "delivery_p99_ms": round(1e3 * percent[98], 1),
        }
