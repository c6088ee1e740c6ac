"""Who is asking, and what for: a request's API key, as the tenant and the scopes it stands for.

A key that was found is remembered for a moment, so that a burst of requests asks Redis once, and a
revoked key is refused everywhere within that moment. Keys nobody knows are not remembered: a key
just made works at once.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from starlette.requests import Request

from service.api.errors import ApiProblem
from service.contract.access import Access, ApiKey, Scope

OPEN_TENANT = "default"
REMEMBERED_SECONDS = 3.0
MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    tenant: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises ApiProblem where the key lacks a scope."""
        if scope not in self.scopes:
            raise ApiProblem(
                "missing_scope",
                f"This needs a key with the scope {scope}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            )


EVERYBODY = Caller(OPEN_TENANT, frozenset(Scope))


class Callers:
    """Finds who sent a request.

    Args:
        access: The keys; None for a service that is open to everybody.
    """

    def __init__(self, access: Access | None) -> None:
        self._access = access
        # By a hash, so that the memory holds no key and timing tells nothing about one.
        self._remembered: dict[bytes, tuple[float, ApiKey]] = {}

    def of(self, request: Request) -> Caller:
        """The sender of a request. Blocks.

        Raises:
            ApiProblem: There is no key, or none we know.
            redis.exceptions.RedisError: The keys cannot be read.
        """
        if self._access is None:
            return EVERYBODY
        token = _token(request)
        key = self._find(self._access, token)
        if key is None:
            error = ' error="invalid_token"' if token else ""
            raise ApiProblem(
                "unauthenticated",
                "Send a valid key as 'Authorization: Bearer KEY'.",
                headers={"WWW-Authenticate": f"Bearer{error}"},
            )
        return Caller(key.tenant, key.scopes)

    def known(self, request: Request) -> Caller | None:
        """The sender, if that needs no look at the stored keys."""
        if self._access is None:
            return EVERYBODY
        digest = hashlib.sha256(_token(request).encode()).digest()
        until, key = self._remembered.get(digest, (0.0, None))
        return Caller(key.tenant, key.scopes) if key and time.monotonic() < until else None

    def _find(self, access: Access, token: str) -> ApiKey | None:
        digest, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        until, key = self._remembered.get(digest, (0.0, None))
        if key is not None and now < until:
            return key
        found = access.find(token)
        if found is None:
            self._remembered.pop(digest, None)
            return None
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = (now + REMEMBERED_SECONDS, found)
        return found


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return request.headers.get("x-api-key", "")
