"""What makes two submissions one: the client's `Idempotency-Key` and the request itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Idempotency:
    """What makes two submissions the same. Only hashes: neither key nor prompt is stored for it.

    Attributes:
        key: Of the tenant and the key it sent.
        digest: Of everything it sent with that key.
    """

    key: str
    digest: str

    @classmethod
    def of(cls, tenant: str, key: str, body: bytes) -> Idempotency:
        """For a tenant's key and whatever identifies the request."""
        named = json.dumps([tenant, key]).encode()
        return cls(hashlib.sha256(named).hexdigest(), hashlib.sha256(body).hexdigest())
