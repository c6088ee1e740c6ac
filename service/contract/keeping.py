"""What is stored and no longer needed: expired jobs, and pictures that became no job.

An ended job's record expires by itself; its objects are deleted afterwards by whoever asks what is
`due`, in two steps so that a death between them loses nothing: the record first notes whose objects
must go, and forgets that only when they are gone. A picture is announced before it is stored, and
taken off that list by the submission that uses it, so one of a gateway that died in between is
found here and nowhere else.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from redis import Redis

from service.contract.connections import KEY_PREFIX
from service.contract.script import Script

Reason = Literal["expired", "upload"]
DeletedFor = Literal["expired", "upload", "stray", "unfinished"]
"""Why a stored object is deleted: what the record says, what no record knows, half a write."""


@dataclass(frozen=True)
class Removal:
    """A job whose objects are to be deleted.

    Attributes:
        reason: ``expired``: it was kept as long as it should be. ``upload``: it never became one.
    """

    job_id: str
    reason: Reason


class Keeping:
    """What one record knows of the storage's contents. All calls may be repeated."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = Script(redis, "record_base.lua", "record_keeping.lua", "keeping.lua")

    def announce(self, job_id: str) -> None:
        """Say that a picture is about to be stored for a job that is not accepted yet."""
        self._script.call("announce", id=job_id)

    def due(self, upload_ms: int, limit: int = 100) -> list[Removal]:
        """Whose objects are to be deleted now.

        Args:
            upload_ms: How long a submission may take from announcing its picture to its record.
            limit: The most to answer.
        """
        found = self._script.call("due", age=upload_ms, limit=limit)["removals"]
        # An empty Lua table arrives as an object.
        return [Removal(job_id, cast(Reason, reason)) for job_id, reason in found or []]

    def removed(self, removal: Removal) -> None:
        """Say that nothing is stored of a job any more."""
        self._script.call("removed", id=removal.job_id, reason=removal.reason)

    def strangers(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these ids neither a job nor anything else here has."""
        return set(self._script.call("strangers", ids=list(job_ids))["ids"] or [])

    def identity(self) -> str:
        """What tells this record from every other, and from itself once it was emptied."""
        identity: str = self._script.call("identity", fresh=uuid.uuid4().hex)["identity"]
        return identity

    def expired(self, tenant: str | None, job_id: str) -> bool:
        """Whether a job that is not there was the tenant's (None: anybody's) and ended.

        Known for thirty days.
        """
        owner = cast(str | None, self._redis.get(f"{KEY_PREFIX}gone:{job_id}"))
        return owner is not None and tenant in (None, owner)

    def take_turn(self, name: str, every_ms: int) -> bool:
        """Whether the caller is to do what only one of all gateways need do in such a while."""
        return bool(self._redis.set(f"{KEY_PREFIX}turn:{name}", "1", nx=True, px=every_ms))
