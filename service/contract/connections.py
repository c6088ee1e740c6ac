"""Redis connections, configured by hand: the library's defaults lose or double things.

Every write is a script that may be repeated, so a lost reply is simply asked for again.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

KEY_PREFIX = "framepack:"
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
READER_SECONDS = 15.0
"""Longer than any blocking read asks to wait, so that only a dead connection takes it."""


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
    """An asynchronous client for reads that block for up to 10 s.

    It does not wait for ever: a connection whose other end vanished without a word would look like
    one on which nothing happens.
    """
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        url,
        retry=AsyncRetry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), 3),
        max_connections=16,
        decode_responses=True,
        **_timeouts(READER_SECONDS),
    )
    return client


def _timeouts(answer_seconds: float) -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": answer_seconds,
        "socket_keepalive": True,
        "health_check_interval": 30,
    }
