"""Connections that lead nowhere a stranger should reach (server-side request forgery).

A webhook's URL is a stranger's wish. Its host is resolved once, every address it resolves to must
be allowed, and the connection goes to one of these addresses, not to the name again: an answer that
changes in between (DNS rebinding) gains nothing. TLS still checks the certificate against the name.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import anyio
import httpcore

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
"""Addresses that a translator on the way turns into the IPv4 address in their last four bytes."""

_SPECIAL = tuple(
    map(
        ip_network,
        # Protocol assignments, abandoned and tunnelled ways to write an IPv4 address, local
        # translators, documentation: Python's own list of them differs between its releases.
        (
            "192.0.0.0/24",
            "192.88.99.0/24",
            "::/96",
            "64:ff9b:1::/48",
            "2001::/23",
            "2002::/16",
            "3fff::/20",
            "5f00::/16",
        ),
    )
)


class Forbidden(OSError):  # noqa: N818 - an address, not a mistake
    """The host has an address that may not be reached."""


class Guard(httpcore.AsyncNetworkBackend):
    """Connects to allowed addresses only.

    Args:
        networks: Allowed whatever lies there.
        public: Whether public addresses are allowed as well.
    """

    def __init__(self, networks: Sequence[Network], *, public: bool) -> None:
        self._networks = networks
        self._public = public
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the host's addresses that answers.

        Raises:
            Forbidden: One of them may not be reached.
            httpcore.ConnectError: None answers, or the name has no address.
        """
        failed: Exception = httpcore.ConnectError("the name has no address")
        for address in await self._resolve(host, port):
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    def allows(self, address: Address) -> bool:
        """Whether an address may be reached."""
        meant = _meant(address)
        if any(meant in network for network in self._networks):
            return True
        return self._public and _is_public(meant)

    async def _resolve(self, host: str, port: int) -> list[Address]:
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name cannot be resolved") from error
        addresses = [ip_address(where[0]) for *_, where in found]
        if not all(map(self.allows, addresses)):
            raise Forbidden("the host has an address that may not be reached")
        return addresses


def _is_public(address: Address) -> bool:
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, or itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
