"""What a tenant may still submit, as header fields, and when a full service takes jobs again.

`RateLimit-Policy` and `RateLimit` follow draft-ietf-httpapi-ratelimit-headers-11: a list of
policies with quota `q`, window `w` and unit `qu`, and of what is left of each, `r`, with the
seconds `t` after which all of it is there again.
"""

from __future__ import annotations

import math
from typing import Any

from redis.exceptions import RedisError

from service.api.outlook import Outlook
from service.contract.limits import Policy, Quota

LONGEST_RETRY = 3600

QUOTA_HEADERS: dict[str, Any] = {
    "RateLimit-Policy": {
        "description": "The tenant's limits, where it has any.",
        "schema": {"type": "string"},
        "example": '"submissions";q=60;w=60, "jobs";q=100;qu="jobs"',
    },
    "RateLimit": {
        "description": "What is left of each.",
        "schema": {"type": "string"},
        "example": '"submissions";r=59;t=1, "jobs";r=97',
    },
}


def quota_headers(quota: Quota) -> dict[str, str]:
    """The header fields that tell a client where it stands; none where nothing is limited."""
    if not quota.policies:
        return {}
    headers = {
        "RateLimit-Policy": ", ".join(map(_policy, quota.policies)),
        "RateLimit": ", ".join(map(_left, quota.policies)),
    }
    if quota.refused:
        headers["Retry-After"] = str(_whole(quota.retry_seconds))
    return headers


def _policy(policy: Policy) -> str:
    window = "" if policy.window is None else f";w={policy.window}"
    unit = f';qu="{policy.unit}"' if policy.unit else ""
    return f'"{policy.name}";q={policy.limit}{window}{unit}'


def _left(policy: Policy) -> str:
    reset = "" if policy.reset is None else f";t={math.ceil(policy.reset / 1000)}"
    return f'"{policy.name}";r={policy.left}{reset}'


def _whole(seconds: float) -> int:
    return min(LONGEST_RETRY, max(1, math.ceil(seconds)))


def seconds_until_room(outlook: Outlook) -> int:
    """When a full service takes another job, for Retry-After: once the next of its jobs ends."""
    try:
        return _whole(outlook.until_one_ends())
    except RedisError:
        return _whole(0)
