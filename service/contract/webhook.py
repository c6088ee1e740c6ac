"""A webhook as a request names it: where to tell of which events. Needs pydantic only."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

WebhookEvent = Literal[
    "job.queued",
    "job.started",
    "job.section.completed",
    "job.completed",
    "job.failed",
    "job.cancelled",
]
ENDS: tuple[WebhookEvent, ...] = ("job.completed", "job.failed", "job.cancelled")
"""What is told where nothing else was asked for."""

_URL = re.compile(r"[\x21-\x7e]{1,2000}")


def _checked(url: str) -> str:
    """Refuse what no message could be sent to; messages never quote the URL."""
    if not _URL.fullmatch(url):
        raise ValueError("must be at most 2000 visible ASCII characters")
    try:
        parts = urlsplit(url)
        port_is_right = parts.port != 0
    except ValueError:
        raise ValueError("must be a URL") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not port_is_right:
        raise ValueError("must be an https URL with a host")
    if parts.username is not None or parts.fragment:
        raise ValueError("must not hold a user, a password or a fragment")
    return url


_URL_SCHEMA = {
    "title": "Url",
    "type": "string",
    "format": "uri",
    "maxLength": 2000,
    "pattern": r"^https://([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){1,3}[a-z]{2,63}"
    r"(:[1-9][0-9]{0,3})?(/[!-\"$-~]{0,1500})?$",
    "description": "https, and leads to public addresses; without user, password and fragment.",
}
"""What is always taken. Addresses in place of names are, too; plain http is where settings say."""


class Webhook(BaseModel):
    """Where to tell of which events.

    Attributes:
        url: https; messages are posted there.
        events: Types of events; without, how the job ended.
    """

    # Not strict: what a form or a store holds is a dictionary. Text is still only made of text.
    model_config = ConfigDict(extra="forbid", strict=False, frozen=True)

    url: Annotated[str, AfterValidator(_checked), WithJsonSchema(_URL_SCHEMA)]
    events: Annotated[tuple[WebhookEvent, ...], Field(min_length=1, max_length=6)] = ENDS
