"""API keys made as the admin command makes them, for gateways without a pepper."""

from __future__ import annotations

from collections.abc import Collection

from service.contract.access import Access, Scope
from service.contract.connections import connect


def make_key(redis_url: str, tenant: str, scopes: Collection[Scope] = tuple(Scope)) -> str:
    with connect(redis_url) as client:
        token, _ = Access(client, b"").create(tenant, scopes)
    return token
