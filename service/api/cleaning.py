"""Deleting what is stored and no longer needed; every gateway does, and `python -m service sweep`.

Files of expired jobs and of submissions that became none go because the record says so. Files that
no record knows of (left by a worker that was slower than its job's end, by an older version) are
found by looking at all of the storage, and that is dangerous: to a record that was emptied, every
video is such a file. So the storage names the record it belongs to, and nothing unknown is deleted
for another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from service.contract.errors import ContractError, ObjectNotFound
from service.contract.keeping import DeletedFor, Keeping
from service.contract.storage.base import Storage, StoredObject

log = logging.getLogger(__name__)

OWNER = "service/record"
"""The object that names the record that a storage belongs to."""

AT_ONCE = 100
"""Jobs whose files are deleted before the record is asked again; ids it is asked about at once."""


class ForeignStorage(ContractError):  # noqa: N818 - reads as what it is at the raise site
    """The storage belongs to another record, or to this one before it was emptied."""


@dataclass(frozen=True)
class Deleted:
    """Something that is deleted, or would be.

    Attributes:
        reason: ``expired``, ``upload`` (of a submission that became no job), ``stray`` (no record
            knows it) or ``unfinished`` (a write that never ended).
        key: Of the object, or empty.
    """

    reason: DeletedFor
    key: str = ""
    size_bytes: int = 0


class Cleaner:
    """Deletes from one storage what one record no longer needs. Any number may, at once."""

    def __init__(self, keeping: Keeping, storage: Storage, age_seconds: float) -> None:
        """Describe what to clean.

        Args:
            keeping: What the record knows.
            storage: What to delete from.
            age_seconds: How old what nobody refers to must be.
        """
        self._keeping, self._storage, self._age = keeping, storage, age_seconds

    def due(self) -> Iterator[Deleted]:
        """Delete what the record says. Raises StorageError; what is left then is due again."""
        while removals := self._keeping.due(int(1000 * self._age), AT_ONCE):
            for removal in removals:
                for found in list(self._storage.list(f"jobs/{removal.job_id}/")):
                    self._storage.delete(found.key)
                    yield Deleted(removal.reason, found.key, found.size_bytes)
                self._keeping.removed(removal)

    def unfinished(self) -> Iterator[Deleted]:
        """Delete what writes left that never ended. Raises StorageError."""
        for _ in range(self._storage.clear_unfinished(self._age)):
            yield Deleted("unfinished")

    def strays(self, *, dry_run: bool = False) -> Iterator[Deleted]:
        """Delete what no record knows of and is old enough.

        Args:
            dry_run: Delete nothing.

        Raises:
            ForeignStorage: The storage belongs to another record; nothing was deleted.
            StorageError: It failed.
        """
        self.require_ownership()
        stored = groupby(self._storage.list("jobs/"), key=lambda found: found.key.split("/")[1])
        jobs = ((job_id, list(files)) for job_id, files in stored)
        young = time.time() - self._age
        while several := dict(islice(jobs, AT_ONCE)):
            for job_id in sorted(self._keeping.strangers(list(several))):
                for found in several[job_id]:
                    if found.modified_at < young:
                        yield self._delete_stray(found, dry_run)

    def require_ownership(self, *, adopt: bool = False) -> None:
        """Find out whether the storage belongs to this record; one that names none does from now.

        Args:
            adopt: Make it so.

        Raises:
            ForeignStorage: It does not.
            StorageError: The storage failed.
        """
        own, named = self._keeping.identity(), self._owner()
        if named is None or (adopt and named != own):
            self._storage.put(OWNER, own.encode(), "text/plain")
        elif named != own:
            raise ForeignStorage(
                "the storage belongs to another record than this Redis has (an emptied one is "
                "another): files that it does not know of are kept"
            )

    def _owner(self) -> str | None:
        try:
            return self._storage.get(OWNER).decode()
        except ObjectNotFound:
            return None

    def _delete_stray(self, found: StoredObject, dry_run: bool) -> Deleted:
        if not dry_run:
            self._storage.delete(found.key)
        return Deleted("stray", found.key, found.size_bytes)


def clean_in_turn(
    cleaner: Cleaner, keeping: Keeping, every_ms: int, tell: Callable[[Deleted], None]
) -> None:
    """One round of a gateway: what is due at once, the whole storage when it is somebody's turn.

    Args:
        cleaner: What to do it with.
        keeping: Says whose turn it is.
        every_ms: How often all of the storage is looked through, by one of all gateways.
        tell: Called with everything deleted.
    """
    for deleted in cleaner.due():
        tell(deleted)
    if not keeping.take_turn("strays", every_ms):
        return
    for deleted in cleaner.unfinished():
        tell(deleted)
    try:
        for deleted in cleaner.strays():
            tell(deleted)
    except ForeignStorage as error:
        log.warning("%s; see `python -m service sweep --help`", error)
