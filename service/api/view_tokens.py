"""Short-lived tokens to look at one job, for what cannot send a key: EventSource, a film player.

A token stands in URLs, so it says as little as possible: until when, and a signature over that and
the job's id. It opens the job's events, preview, playlist and clips, and nothing that changes
anything. Nothing is stored: a token ends by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.api.deps import Services, TheServices, caller, owned_by, telling_of_expired
from service.api.errors import ApiProblem
from service.contract.errors import JobNotFound
from service.contract.job import JobSpec

DEFAULT_SECONDS = 300
LEAST_SECONDS = 10
MOST_SECONDS = 6 * 3600
"""A film player reads a playlist for as long as the video is made."""

_TOKEN = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")
_PURPOSE = b"framepack view token"


@dataclass(frozen=True)
class ViewTokens:
    """Issues and checks tokens; all gateways with the same secret know each other's."""

    secret: SecretStr
    clock: Callable[[], float] = time.time

    def issue(self, job_id: str, seconds: int) -> tuple[str, int]:
        """A token and when it ends, in seconds since the epoch.

        Raises:
            ApiProblem: The service has no secret to sign with.
        """
        expires = int(self.clock()) + seconds
        return f"{expires}.{self._signature(job_id, expires)}", expires

    def check(self, job_id: str, token: str) -> None:
        """Raises ApiProblem unless the token is one of ours, for this job, and not over."""
        found = _TOKEN.fullmatch(token)
        if found is not None:
            expires = int(found[1])
            signature = self._signature(job_id, expires)
            if hmac.compare_digest(signature, found[2]) and expires >= self.clock():
                return
        raise ApiProblem("invalid_token", "Ask for a new one: GET /jobs/{job_id}/token.")

    def _signature(self, job_id: str, expires: int) -> str:
        secret = self.secret.get_secret_value().encode()
        if not secret:
            raise ApiProblem("tokens_unavailable", "Send the API key in a header instead.")
        # A key of its own, so that no other thing signed with the secret is ever a token.
        key = hmac.digest(secret, _PURPOSE, hashlib.sha256)
        return hmac.new(key, f"{job_id}\n{expires}".encode(), hashlib.sha256).hexdigest()


Token = Annotated[
    str | None,
    Query(
        description="Of `GET /jobs/{job_id}/token`, instead of a key.",
        max_length=128,
        examples=["1795428300.…"],
    ),
]


async def viewed_job(
    job_id: str, request: Request, parts: TheServices, token: Token = None
) -> JobSpec:
    """The job in the path, for its tenant or for whoever holds a token for it.

    Raises:
        ApiProblem: Neither key nor token is good.
        JobNotFound: There is no such job for this tenant.
        JobExpired: There was.
    """
    if token is None:
        asking = await caller(request, parts)
        return await run_in_threadpool(owned_by, parts, asking.tenant, job_id)
    ViewTokens(parts.settings.signing_secret).check(job_id, token)
    return await run_in_threadpool(_told_by_a_token, parts, job_id)


def _told_by_a_token(parts: Services, job_id: str) -> JobSpec:
    with telling_of_expired(parts, None, job_id):
        return parts.record.spec(job_id)


ViewedJob = Annotated[JobSpec, Depends(viewed_job)]


async def followed_job(
    job_id: str, request: Request, parts: TheServices, token: Token = None
) -> JobSpec:
    """As `viewed_job`, from memory if somebody followed the job before. Raises as that."""
    found = parts.followed.known(job_id)
    if token is not None:
        ViewTokens(parts.settings.signing_secret).check(job_id, token)
    elif found is not None and (await caller(request, parts)).tenant != found.tenant:
        raise JobNotFound(job_id)
    if found is None:
        found = await viewed_job(job_id, request, parts, token)
        parts.followed.remember(found)
    return found


FollowedJob = Annotated[JobSpec, Depends(followed_job)]
