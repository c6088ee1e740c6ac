"""A tenant's jobs, page by page, and their deletion.

The list is a sorted set that a submission writes with its job; whatever has expired since leaves it
when somebody looks. Deleting is for jobs that have ended: one that is worked on is cancelled first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from redis import Redis

from service.contract.errors import JobConflict, JobNotFound
from service.contract.job import JobStatus
from service.contract.script import Script


@dataclass(frozen=True)
class Page:
    """Some of a tenant's jobs; ``after`` leads to the next page, None ends.

    A page may hold fewer jobs than were asked for and not be the last: one look goes through so
    many jobs and no more.
    """

    ids: list[str]
    after: str | None


@dataclass(frozen=True)
class Chosen:
    """Which jobs of a tenant.

    Attributes:
        statuses: Only these; none means all.
        metadata: Only jobs that have all of this.
    """

    statuses: Collection[JobStatus] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


ALL = Chosen()


class Listing:
    """The lists of one Redis server."""

    def __init__(self, redis: Redis) -> None:
        self._script = Script(redis, "record_base.lua", "listing.lua")

    def page(
        self,
        tenant: str,
        limit: int,
        *,
        after: str | None = None,
        chosen: Chosen = ALL,
        ascending: bool = False,
    ) -> Page:
        """A tenant's jobs, newest first.

        Args:
            tenant: Whose.
            limit: The most to return.
            after: Where the page before ended.
            chosen: Which of them.
            ascending: Oldest first instead.
        """
        answer = self._script.call(
            "page",
            tenant=tenant,
            limit=limit,
            ascending=ascending,
            **({} if after is None else {"after": after}),
            **({"statuses": sorted(chosen.statuses)} if chosen.statuses else {}),
            **({"metadata": dict(chosen.metadata)} if chosen.metadata else {}),
        )
        # An empty Lua table arrives as an object.
        return Page(list(answer["ids"] or []), answer.get("after"))

    def place(self, tenant: str, job_id: str) -> str | None:
        """What `page` takes as `after` to go on behind a job; None for one that is not listed."""
        order: str | None = self._script.call("place", tenant=tenant, id=job_id).get("order")
        return order

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, with its events; its files are the caller's.

        Raises:
            JobNotFound: There is no such job.
            JobConflict: It has not ended.
        """
        answer = self._script.call("delete", id=job_id)
        if answer.get("missing"):
            raise JobNotFound(job_id)
        if "conflict" in answer:
            raise JobConflict(f"job {job_id} is {answer['conflict']}")
