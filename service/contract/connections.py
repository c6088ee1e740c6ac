"""Redis connections, configured by hand: the library's defaults lose or double things.

Every write is a script that may be repeated, so a lost reply is simply asked for again.
"""

from __future__ import annotations

import socket
from typing import Any

import redis.asyncio
from redis import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

KEY_PREFIX = "framepack:"
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0

_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A peer that vanished without a word is found out after half a minute, not after two hours."""


def connect(
    url: str, *, retries: int = 6, answer_seconds: float = ANSWER_SECONDS, decode: bool = True
) -> Redis:
    """A client for commands.

    Args:
        url: ``redis://[:password@]host:port/db``, or rediss, or unix.
        retries: Tries after the first, with pauses from 50 ms to 1 s.
        answer_seconds: How long to wait for an answer.
        decode: Give answers as text.
    """
    client: Redis = Redis.from_url(
        url,
        retry=Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), retries),
        max_connections=64,
        decode_responses=decode,
        **_timeouts(answer_seconds),
    )
    return client


def connect_reader(url: str) -> redis.asyncio.Redis:
    """An asynchronous client for reads that block.

    It has no time-out of its own: those of the client library go through `asyncio.wait_for`, which
    before Python 3.12 may lose a cancellation. Callers use `asyncio.timeout`.
    """
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        url,
        retry=AsyncRetry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), 3),
        max_connections=16,
        decode_responses=True,
        **_timeouts(None),
    )
    return client


def _timeouts(answer_seconds: float | None) -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": answer_seconds,
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value
            for name, value in _KEEPALIVE.items()
            if hasattr(socket, name)
        },
        "health_check_interval": 30,
    }
