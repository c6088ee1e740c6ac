"""Whether the Redis server keeps what it acknowledges; asked before the first job is accepted.

An accepted job lives nowhere else. A server that evicts keys when memory is short, or that keeps
no append-only file, loses jobs silently, so the gateway refuses to work with one unless told
otherwise.
"""

from __future__ import annotations

import logging

import redis.exceptions
from redis import Redis

log = logging.getLogger(__name__)


class UnsafeRedis(Exception):  # noqa: N818 - reads as what it is at the raise site
    """The Redis server may lose accepted jobs; the message says why and what to set."""


class Durability:
    """Stands before the first accepted job.

    Args:
        client: A connection to the server.
        accept: Only warn about a server that is unsafe.
    """

    def __init__(self, client: Redis, *, accept: bool) -> None:
        self._client = client
        self._accept = accept
        self._known_safe = False

    def require(self) -> None:
        """Refuse a server that may lose accepted jobs; asks it once.

        Raises:
            UnsafeRedis: The server's settings are unsafe, or it does not tell them.
            redis.exceptions.ConnectionError: The server is away; nothing is known.
        """
        if self._known_safe:
            return
        faults = _faults(self._client)
        if faults:
            message = "Redis may lose accepted jobs: " + "; ".join(faults)
            if not self._accept:
                raise UnsafeRedis(
                    f"{message}. FRAMEPACK_ACCEPT_UNSAFE_REDIS=true runs all the same"
                )
            log.warning("%s (accepted by the settings)", message)
        self._known_safe = True


def _faults(client: Redis) -> list[str]:
    try:
        policy = _setting(client, "maxmemory-policy")
        append_only = _setting(client, "appendonly")
        fsync = _setting(client, "appendfsync")
    except redis.exceptions.ResponseError:
        return ["it does not allow CONFIG GET, so its persistence is unknown"]
    faults = []
    if policy != "noeviction":
        faults.append(f"maxmemory-policy is {policy}, set noeviction")
    if append_only != "yes":
        faults.append("appendonly is off, set appendonly yes")
    elif fsync != "always":
        log.warning("appendfsync is %s: a power cut may lose the last second of jobs", fsync)
    return faults


def _setting(client: Redis, name: str) -> str:
    answer = client.config_get(name)
    value = next(iter(answer.values()), "")
    return value.decode() if isinstance(value, bytes) else str(value)
