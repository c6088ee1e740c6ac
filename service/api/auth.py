"""Who is asking: tenants by API key.

Keys come from the settings. With none configured the service is open and everybody is the tenant
`default`, which is meant for loopback only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from starlette.requests import Request

from service.api.errors import ApiProblem

OPEN_TENANT = "default"


class Tenants:
    """Finds the tenant of a request."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        # Looked up by hash, so that timing tells nothing about how much of a key was right.
        self._by_hash = {_hash(key): tenant for key, tenant in keys.items()}

    def of(self, request: Request) -> str:
        """The tenant of a request.

        Raises:
            ApiProblem: There is no key, or none we know.
        """
        if not self._by_hash:
            return OPEN_TENANT
        tenant = self._by_hash.get(_hash(_key(request)))
        if tenant is None:
            raise ApiProblem(
                "unauthenticated",
                "Send a valid key as 'Authorization: Bearer KEY'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return tenant


def _key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return request.headers.get("x-api-key", "")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
