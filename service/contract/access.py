"""API keys: made here, kept only as hashes, and found again when a request brings one.

A key reads ``fp_{id}_{secret}``. The id is public and names the key in lists; the secret is 32
random bytes that nobody stores. What is stored is HMAC-SHA256 of the secret under the deployment's
pepper. A slow hash (argon2, bcrypt) protects passwords because people choose guessable ones; 256
random bits cannot be guessed at any speed, and a slow hash would only let strangers burn the
gateway's processors. The pepper lies outside Redis, so who can write there still cannot make a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis import Redis

from service.contract.errors import InvalidTenant, KeyNotFound, TooManyKeys
from service.contract.script import Script

KEYS_PER_TENANT = 2
"""Two, so that a tenant can rotate: make the second, move over, revoke the first."""

USED_STEP_MS = 60_000
"""Between two notes of a key's last use: that a request reads must not make it a write."""

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"fp_([0-9a-f]{12})_([0-9a-f]{64})")


class Scope(StrEnum):
    """What a key may be used for."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. Times are milliseconds since the epoch.

    Attributes:
        used_at: Its last use, to the minute; None before the first.
    """

    id: str
    tenant: str
    scopes: frozenset[Scope]
    label: str
    created_at: int
    used_at: int | None


class Access:
    """All API keys of one Redis server.

    Args:
        redis: The server.
        pepper: The deployment's secret that is mixed into every hash.
    """

    def __init__(self, redis: Redis, pepper: bytes) -> None:
        self._script = Script(redis, "record_base.lua", "access.lua")
        self._pepper = pepper

    def create(
        self, tenant: str, scopes: Collection[Scope] = tuple(Scope), label: str = ""
    ) -> tuple[str, ApiKey]:
        """Make a key; what it returns first is the only time anybody sees the whole of it.

        Raises:
            InvalidTenant: The name cannot be used.
            TooManyKeys: The tenant has two already.
        """
        if not TENANT.fullmatch(tenant):
            raise InvalidTenant(tenant)
        key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
        answer = self._script.call(
            "create",
            id=key_id,
            tenant=tenant,
            hash=self._hash(secret),
            scopes=" ".join(sorted(scopes)),
            label=label,
            most=KEYS_PER_TENANT,
        )
        if answer.get("full"):
            raise TooManyKeys(tenant)
        return f"fp_{key_id}_{secret}", _key(answer["key"])

    def list_keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or a tenant's, the oldest first."""
        found = self._script.call("list", tenant=tenant) if tenant else self._script.call("list")
        # An empty Lua table arrives as an object.
        keys = [_key(fields) for fields in found["keys"] or ()]
        return sorted(keys, key=lambda key: (key.tenant, key.created_at, key.id))

    def revoke(self, key_id: str) -> None:
        """Make a key worthless; gateways follow within `service.api.auth.REMEMBERED_SECONDS`.

        Raises:
            KeyNotFound: There is no such key.
        """
        if not self._script.call("revoke", id=key_id)["revoked"]:
            raise KeyNotFound(key_id)

    def find(self, token: str) -> ApiKey | None:
        """The key a request brought, if it is one of ours; notes that it was used.

        Found by its public id; the secret's hash is then compared in constant time.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        answer = self._script.call("find", id=match[1])
        fields = answer.get("key")
        if not fields or not hmac.compare_digest(self._hash(match[2]), str(fields["hash"])):
            return None
        if answer["now"] - int(fields["used"]) >= USED_STEP_MS:
            self._script.call("used", id=match[1])
        return _key(fields)

    def _hash(self, secret: str) -> str:
        return hmac.new(self._pepper, secret.encode(), hashlib.sha256).hexdigest()


def _key(fields: Mapping[str, Any]) -> ApiKey:
    known = set(Scope)
    return ApiKey(
        id=fields["id"],
        tenant=fields["tenant"],
        # A scope that only a later release knows opens nothing here.
        scopes=frozenset(Scope(word) for word in fields["scopes"].split() if word in known),
        label=fields["label"],
        created_at=int(fields["created"]),
        used_at=int(fields["used"]) or None,
    )
