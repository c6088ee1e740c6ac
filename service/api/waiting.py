"""`Prefer: wait=n` (RFC 7240): an answer that comes when the job has ended, or after n seconds.

Whoever waits is one more follower of the job's events, as an event stream is: no thread is kept,
and Redis is read by the gateway's one reader for all of them.
"""

from __future__ import annotations

import logging
import re
from typing import Annotated, Any

from anyio import CancelScope, create_task_group, move_on_after
from fastapi import Depends, Header, Request
from redis.exceptions import RedisError
from sse_starlette.sse import AppStatus
from starlette.concurrency import run_in_threadpool

from service.api.deps import Services

log = logging.getLogger(__name__)

MOST_SECONDS = 60
_SECONDS_BETWEEN_LOOKS = 1.0
_PREFERENCE = re.compile(r"\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*", re.IGNORECASE)

PREFERENCE_APPLIED: dict[str, Any] = {
    "Preference-Applied": {
        "description": "With `Prefer: wait=n`: how long the answer was prepared to wait.",
        "schema": {"type": "string"},
        "example": "wait=30",
    }
}


def preferred_wait(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(
            description=f"`wait=30`: answer when the job has ended, or after 30 seconds (at most "
            f"{MOST_SECONDS}) as it is then. Other preferences are ignored.",
        ),
    ] = None,
) -> int:
    """Seconds that the client would wait; 0 if it did not say."""
    for line in request.headers.getlist("prefer"):
        for preference in line.split(","):
            found = _PREFERENCE.fullmatch(preference.partition(";")[0])
            if found is not None:  # the first counts (RFC 7240, section 2)
                return min(MOST_SECONDS, int(found[1]))
    return 0


PreferredWait = Annotated[int, Depends(preferred_wait)]


def applied(seconds: int) -> dict[str, str]:
    """The header that says what came of the preference."""
    return {"Preference-Applied": f"wait={seconds}"} if seconds else {}


async def wait_for_end(parts: Services, request: Request, job_id: str, seconds: int) -> None:
    """Return when a job has ended, time is up, or nobody waits any more.

    Raises:
        JobNotFound: There is no such job.
    """
    if not seconds:
        return
    job = await run_in_threadpool(parts.record.get, job_id)
    if job.status.terminal:
        return
    with move_on_after(seconds):
        async with create_task_group() as group:
            group.start_soon(_until_nobody_waits, request, group.cancel_scope)
            await _until_end(parts, job_id, job.last_sequence)
            group.cancel_scope.cancel()


async def _until_end(parts: Services, job_id: str, known: int) -> None:
    try:
        async with parts.hub.follow(job_id, known) as events:
            async for _ in events:
                pass
    except RedisError as error:
        # The answer is made by reading the job, which says so if the record is away.
        log.warning("no more waiting for a job: %s", type(error).__name__)


async def _until_nobody_waits(request: Request, scope: CancelScope) -> None:
    """Give up when the client hangs up or the gateway is told to stop."""
    while not AppStatus.should_exit:
        with move_on_after(_SECONDS_BETWEEN_LOOKS):
            if (await request.receive())["type"] == "http.disconnect":
                break
    scope.cancel()
