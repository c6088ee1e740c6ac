"""progress.json: how far a job is, beside its files in the storage.

For whoever has the storage and not the service. Written after a commit and no part of it: the
record decides, this is a copy. Only the deliver lane writes it, so that two processes do not
overwrite each other's.
"""

from __future__ import annotations

import json
import logging

import redis.exceptions

from service.contract.errors import ContractError
from service.contract.job import Job, JobSpec
from service.contract.record import Record
from service.contract.storage.base import Storage

log = logging.getLogger(__name__)


def progress_key(job_id: str) -> str:
    """The one key that is overwritten."""
    return f"jobs/{job_id}/progress.json"


def progress_document(job: Job, spec: JobSpec) -> bytes:
    """A job's state with the keys of its clips and video."""
    plan = {
        "total_sections": spec.num_sections,
        "total_frames": spec.num_frames,
        "fps": spec.fps,
        "height": spec.video_size[0],
        "width": spec.video_size[1],
    }
    state = job.model_dump(mode="json", exclude_none=True)
    return json.dumps({**state, **plan}, indent=1).encode()


def write_progress(storage: Storage, record: Record, spec: JobSpec) -> None:
    """Store a job's progress. A failure is only logged, for the commit is done."""
    try:
        document = progress_document(record.get(spec.id), spec)
        storage.put(progress_key(spec.id), document, "application/json")
    except (ContractError, redis.exceptions.RedisError) as error:
        log.warning("could not write progress.json: %s", type(error).__name__)
