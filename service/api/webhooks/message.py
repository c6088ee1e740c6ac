"""A webhook's message and its signature, in the form of Standard Webhooks.

Signed are the message's id, the time of the attempt and the body. While a secret is being replaced
there are two signatures, one by each.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.contract.outbox import Delivery
from service.contract.views import utc

_STORED_ONLY = ("key", "init_bytes")


def body_of(delivery: Delivery, public_url: str) -> bytes:
    """A message: small, the same at every try, without links that expire."""
    here = f"{public_url.rstrip('/')}/jobs/{delivery.job_id}"
    links = {"self": here}
    if delivery.event == "job.completed":
        links["video"] = f"{here}/video"
    data = {
        "job_id": delivery.job_id,
        "sequence": delivery.sequence,
        **_public(delivery.data),
        **({"metadata": dict(delivery.metadata)} if delivery.metadata else {}),
        "links": links,
    }
    at = utc(delivery.at).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": delivery.event, "timestamp": at, "data": data}).encode()


def _public(data: Mapping[str, Any]) -> dict[str, Any]:
    """An event's fields without where its artifacts lie in the storage."""
    shown: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict) and "key" in value:
            value = {word: each for word, each in value.items() if word not in _STORED_ONLY}
        shown[name] = value
    return shown


def signatures(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``: one v1 signature by each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    found = []
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        found.append("v1," + base64.b64encode(digest).decode())
    return " ".join(found)
