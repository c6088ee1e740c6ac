"""What the fields of a stored record mean. Writes nothing: only the record's script does.

Reading is forward compatible: a field that an older writer did not know has a default, one that
only a later writer knows is ignored. What cannot be read at all is one error, which quotes nothing,
since prompts do not belong in logs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.contract.errors import Problem, RecordUnreadable
from service.contract.job import Artifact, Clip, Job, JobSpec, JobStatus, Lane, Progress
from service.contract.spent import JobMetrics, metrics_in

Fields = Mapping[str, str]


def job_of(job_id: str, fields: Fields) -> Job:
    """The state of a job. Raises RecordUnreadable."""
    with _reading(job_id):
        sections = _number(fields, "sections")
        delivered = _lane_artifacts(fields, Lane.DELIVER)
        error = fields.get("error")
        return Job(
            id=job_id,
            status=JobStatus(fields["status"]),
            created_at=_number(fields, "created"),
            started_at=_number(fields, "started") or None,
            finished_at=_number(fields, "finished") or None,
            sections_sampled=_sampled(fields),
            clips=tuple(Clip(section=k, artifact=a) for k, a in delivered if k < sections),
            video=next((a for k, a in delivered if k == sections), None),
            error=None if error is None else Problem.model_validate_json(error),
            last_sequence=_number(fields, "sequence"),
        )


def progress_of(job_id: str, fields: Fields) -> Progress:
    """How far a job is. Raises RecordUnreadable."""
    with _reading(job_id):
        sampled, total = _sampled(fields), _number(fields, "sections")
        step = json.loads(fields.get("step", "{}"))
        if step.get("section") != sampled:
            step = {}
        return Progress(
            sections_sampled=sampled,
            sections_completed=min(_number(fields, "deliver.next"), total),
            total_sections=total,
            section=step.get("section"),
            step=step.get("step"),
            total_steps=step.get("total_steps"),
        )


def metrics_of(job_id: str, fields: Fields) -> JobMetrics:
    """What a job took. Raises RecordUnreadable."""
    with _reading(job_id):
        return metrics_in(fields)


def spec_of(job_id: str, fields: Fields) -> JobSpec:
    """The job as accepted. Raises RecordUnreadable."""
    with _reading(job_id):
        return JobSpec.model_validate_json(fields["spec"])


def artifacts_of(job_id: str, fields: Fields) -> dict[str, Artifact]:
    """What is committed, by ``{lane}:{number}``. Raises RecordUnreadable."""
    with _reading(job_id):
        return {
            f"{lane}:{number}": artifact
            for lane in Lane
            for number, artifact in _lane_artifacts(fields, lane)
        }


@contextmanager
def _reading(job_id: str) -> Iterator[None]:
    # A pydantic.ValidationError is a ValueError; its text would quote the record.
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RecordUnreadable(f"the record of job {job_id} cannot be read") from None


def _number(fields: Fields, name: str) -> int:
    return int(fields.get(name, 0))


def _sampled(fields: Fields) -> int:
    return max(0, _number(fields, "render.next") - 1)


def _lane_artifacts(fields: Fields, lane: Lane) -> list[tuple[int, Artifact]]:
    """Committed artifacts of a lane, in order."""
    prefix = f"artifact:{lane}:"
    found = [
        (int(name.removeprefix(prefix)), Artifact.model_validate_json(value))
        for name, value in fields.items()
        if name.startswith(prefix)
    ]
    return sorted(found, key=lambda pair: pair[0])
