"""Deleting a job: its files first, so that nothing is left behind that nobody knows of."""

from __future__ import annotations

from service.api.deps import Services
from service.api.errors import ApiProblem
from service.contract.job import JobSpec


def remove(parts: Services, spec: JobSpec) -> None:
    """Delete a job that has ended, with everything stored of it. May be repeated.

    Raises:
        ApiProblem: It has not ended.
        JobNotFound: It was deleted meanwhile.
        StorageError: Some files are still there, and so is the job.
    """
    if not parts.record.get(spec.id).status.terminal:
        raise ApiProblem("job_conflict", "It has not ended: cancel it, and delete it when it has.")
    for found in list(parts.storage.list(f"jobs/{spec.id}/")):
        parts.storage.delete(found.key)
    parts.outbox.forget(spec.tenant, spec.id)
    parts.listing.delete(spec.id)
