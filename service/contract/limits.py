"""What a tenant may have at once and ask for a minute, and what it has had.

``record_limits.lua`` decides, in the step that accepts a job, so that no two requests can slip
through one gap. The limits of a deployment are its settings; a tenant may have others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from redis import Redis

from service.contract.access import TENANT
from service.contract.connections import KEY_PREFIX
from service.contract.errors import ContractError, InvalidTenant

DAY_SECONDS = 24 * 3600
USAGE_WORDS = ("jobs", "completed", "failed", "cancelled", "sections", "gpu_ms", "bytes")


@dataclass(frozen=True)
class Limits:
    """What one tenant may; 0 is no limit.

    Attributes:
        submissions: Accepted submissions a minute.
        jobs: Jobs that have not ended.
        gpu_seconds: Estimated seconds one render worker needs for all that is left of them.
    """

    submissions: int = 0
    jobs: int = 0
    gpu_seconds: int = 0


@dataclass(frozen=True)
class Policy:
    """One limit as it stands.

    Attributes:
        name: submissions, jobs or gpu-seconds.
        limit: The most there may be.
        left: What may still be asked for.
        unit: What is counted; empty for requests.
        window: For a rate, its seconds.
        reset: For a rate, milliseconds until nothing of it is used.
    """

    name: str
    limit: int
    left: int
    unit: str = ""
    window: int | None = None
    reset: float | None = None


@dataclass(frozen=True)
class Quota:
    """All limits of a tenant as they stand.

    Attributes:
        policies: Those that limit something.
        refused: Name of the policy that refuses a submission now; None if it may be made.
        retry_seconds: When it may be made, as far as that can be estimated.
    """

    policies: tuple[Policy, ...] = ()
    refused: str | None = None
    retry_seconds: float = 0.0


class QuotaExceeded(ContractError):  # noqa: N818
    """The tenant has, or asks for, more than it may."""

    def __init__(self, quota: Quota) -> None:
        super().__init__(f"the limit of {quota.refused} is reached")
        self.quota = quota


class ServiceFull(ContractError):  # noqa: N818
    """The service holds as many jobs as it may."""


def quota_of(answer: Mapping[str, Any]) -> Quota:
    """What the script answered.

    Raises:
        ServiceFull: It holds as many jobs as it may.
        QuotaExceeded: A limit refuses the submission.
    """
    if answer.get("full"):
        raise ServiceFull("the service holds as many jobs as it may")
    # An empty Lua table arrives as an object.
    policies = tuple(Policy(**found) for found in answer.get("policies") or ())
    quota = Quota(policies, answer.get("refused"), answer.get("retry", 0) / 1000)
    if quota.refused:
        raise QuotaExceeded(quota)
    return quota


class Tenants:
    """The limits set for single tenants, and what each has had."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def set_limits(self, tenant: str, changes: Mapping[str, int | None]) -> None:
        """Set limits of one tenant; None goes back to the deployment's.

        Raises:
            InvalidTenant: The name cannot be used.
        """
        if not TENANT.fullmatch(tenant):
            raise InvalidTenant(tenant)
        name = f"{KEY_PREFIX}limits:{tenant}"
        known = {field.name for field in fields(Limits)}
        given = {word: value for word, value in changes.items() if word in known}
        values: dict[Any, Any] = {word: value for word, value in given.items() if value is not None}
        dropped = [word for word, value in given.items() if value is None]
        if values:
            self._redis.hset(name, mapping=values)
        if dropped:
            self._redis.hdel(name, *dropped)

    def limits(self, tenant: str, deployment: Limits) -> Limits:
        """What holds for a tenant."""
        own = cast(dict[str, str], self._redis.hgetall(f"{KEY_PREFIX}limits:{tenant}"))
        return Limits(
            **{word: int(own.get(word, value)) for word, value in asdict(deployment).items()}
        )

    def usage(self, tenant: str, days: int) -> dict[str, int]:
        """What a tenant has had today (UTC) and on the days before, by `USAGE_WORDS`."""
        today = int(self._redis.time()[0]) // DAY_SECONDS
        stored = cast(dict[str, str], self._redis.hgetall(f"{KEY_PREFIX}usage:{tenant}"))
        found: Counter[str] = Counter()
        for name, value in stored.items():
            day, _, word = name.partition(" ")
            if word and int(day) > today - days:
                found[word] += int(value)
        return {word: found[word] for word in USAGE_WORDS}
