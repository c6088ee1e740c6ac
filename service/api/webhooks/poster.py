"""The way out to a webhook's URL, which is a stranger's wish: guarded, bounded, without detours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpcore

from framepack.errors import InvalidRequest
from service.api.webhooks.guard import Guard, Network

SECONDS_TO_ANSWER = 15.0


def require_reachable(url: str, networks: Sequence[Network], field: str) -> None:
    """Refuse at once what could never be posted to; names are looked up only when sending.

    Args:
        url: Of a form that `Webhook` accepts.
        networks: Private networks that may be reached, and without TLS.
        field: What an error is about, as a JSON pointer without its ``#/``.

    Raises:
        InvalidRequest: It has no TLS, or an address that may not be reached.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not networks:
        raise InvalidRequest(field, "must be an https URL")
    try:
        address = ip_address(parts.hostname or "")
    except ValueError:
        return
    if not Guard(networks, public=parts.scheme == "https").allows(address):
        raise InvalidRequest(field, "leads to an address that webhooks may not reach")


def _pool(guard: Guard, tls: ssl.SSLContext | None) -> httpcore.AsyncConnectionPool:
    # Without a bound of its own: who waits for a connection would be counted as not answered.
    return httpcore.AsyncConnectionPool(
        tls, max_connections=None, max_keepalive_connections=0, network_backend=guard
    )


class Poster:
    """Posts to strangers' URLs: no redirects, no proxies, nothing of the answer but its status.

    Args:
        networks: Private networks that may be reached, and without TLS.
        tls: How certificates are checked; the system's authorities by default.
        seconds: The time a receiver has, from the look-up of its name to its status.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        tls: ssl.SSLContext | None = None,
        seconds: float = SECONDS_TO_ANSWER,
    ) -> None:
        self._seconds = seconds
        tls = tls or ssl.create_default_context()
        self._pools = {
            "https": _pool(Guard(networks, public=True), tls),
            "http": _pool(Guard(networks, public=False), None),
        }

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status that the URL answers with.

        Raises:
            Forbidden: It leads where nothing may be sent.
            TimeoutError: It took too long.
            httpcore.NetworkError, httpcore.ProtocolError, OSError: There is no answer.
        """
        pool = self._pools[url.partition(":")[0]]
        async with (
            asyncio.timeout(self._seconds),
            pool.stream("POST", url, headers=list(headers.items()), content=body) as answer,
        ):
            return int(answer.status)

    async def close(self) -> None:
        """Close what is open."""
        for pool in self._pools.values():
            await pool.aclose()
