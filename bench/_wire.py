"""A client that costs little beside what it measures: raw HTTP/1.1 over asyncio streams."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import quantiles


class Line:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Send a whole request; the answer's status, head and body."""
        self._writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(LENGTH)), 0
        )
        body = await self.reader.readexactly(length)
        return int(head[9:12]), head, body

    async def send(self, request: bytes) -> bytes:
        """Send a request whose answer has no end; the answer's head."""
        self._writer.write(request)
        return await self.reader.readuntil(b"\r\n\r\n")

    def close(self) -> None:
        self._writer.close()


LENGTH = b"content-length:"


@dataclass
class Load:
    """What many requests got.

    Attributes:
        seconds: From the first request to the last answer.
    """

    took: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def told(self) -> dict[str, object]:
        """For a result."""
        percent = quantiles(self.took, n=100)
        return {
            "requests": len(self.took),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "per_second": round(len(self.took) / self.seconds, 1),
            "p50_ms": round(1e3 * percent[49], 1),
            "p99_ms": round(1e3 * percent[98], 1),
        }


async def put_under_load(port: int, request: bytes, times: int, lines: int) -> Load:
    """Send one request over and over on some connections."""
    load, left = Load(), iter(range(times))
    opened = [await Line.open(port) for _ in range(lines)]

    async def keep_asking(line: Line) -> None:
        for _ in left:
            began = time.perf_counter()
            status, _, _ = await line.ask(request)
            load.took.append(time.perf_counter() - began)
            load.statuses[status] += 1

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking(line) for line in opened))
    load.seconds = time.perf_counter() - began
    for line in opened:
        line.close()
    return load


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as bytes."""
    found = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in found.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
