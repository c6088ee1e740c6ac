"""How long a job may wait and how long it may work, as the record's script is told.

The script ends a late job on its own clock, so it is given the problem documents beforehand.
"""

from __future__ import annotations

from typing import Any

from service.contract.errors import Problem
from service.contract.job import JobRequest


def deadlines_of(request: JobRequest) -> dict[str, Any]:
    """A request's ``ttl`` and ``timeout`` in milliseconds, each with its problem."""
    found: dict[str, Any] = {}
    if request.ttl_seconds is not None:
        found |= {"ttl": 1000 * request.ttl_seconds, "ttl_problem": _waited(request.ttl_seconds)}
    if request.timeout_seconds is not None:
        found["timeout"] = 1000 * request.timeout_seconds
        found["timeout_problem"] = _worked(request.timeout_seconds)
    return found


def _waited(seconds: int) -> str:
    return Problem(
        code="not_started_in_time",
        title="The job waited too long",
        detail=f"No worker began it within its ttl_seconds, {seconds}; submit it again, or with "
        "a longer one.",
        retryable=True,
    ).model_dump_json()


def _worked(seconds: int) -> str:
    return Problem(
        code="timed_out",
        title="The job worked too long",
        detail=f"Workers had spent its timeout_seconds, {seconds}, on it; submit it with a longer "
        "one, or a shorter video.",
    ).model_dump_json()
