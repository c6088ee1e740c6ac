"""The job record: what decides. Every change is one transition of ``record.lua``.

A job has two lanes, each with a lease, a fencing number and a crash count. Lane ``render`` has the
tasks encode, sample(0) .. sample(n-1); lane ``deliver`` has decode(0) .. decode(n-1), finish. A
worker claims the next task of a lane, renews its lease while it works, and commits the result;
whoever comes with an old fence is refused. Times are the Redis server's.

Synchronous: workers call it directly, the gateway from threads. All calls may be repeated.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from redis import Redis

from service.contract.connections import KEY_PREFIX
from service.contract.deadlines import deadlines_of
from service.contract.errors import (
    IdempotencyMismatch,
    JobConflict,
    JobFinished,
    JobNotFound,
    LeaseLost,
    Problem,
    RecordUnreadable,
    UploadTooSlow,
)
from service.contract.events import Picture, PreviewEvent
from service.contract.idempotency import Idempotency
from service.contract.job import (
    SCHEMA_VERSION,
    Artifact,
    Job,
    JobSpec,
    JobStatus,
    Lane,
    Progress,
)
from service.contract.limits import Limits, Quota, quota_of
from service.contract.script import Script
from service.contract.spent import JobMetrics, Spent
from service.contract.stored import artifacts_of, job_of, metrics_of, progress_of, spec_of
from service.contract.task import Signal, Task, TaskKind, WorkerIdentity

__all__ = [
    "DAY_MS",
    "Committed",
    "Record",
    "RecordPolicy",
    "Ring",
    "Signal",
    "Submitted",
    "Swept",
    "Task",
    "TaskKind",
    "WorkerIdentity",
]

Ring = list[tuple[Lane, str]]
"""(lane, preset) pairs that have work for somebody: ring their bells."""

SCRIPT = (
    "record_base.lua",
    "record_outbox.lua",
    "record_keeping.lua",
    "record_counts.lua",
    "record_sharing.lua",
    "record_limits.lua",
    "record.lua",
)
"""Joined, in this order, they are the one script that changes records."""

DAY_MS = 24 * 3600 * 1000

WORKER_CRASHED = Problem(
    code="worker_crashed",
    title="The workers crashed",
    detail="Every worker that tried the same task of this job died; the job was stopped.",
    retryable=True,
)
INVALID_RECORD = Problem(
    code="invalid_record",
    title="The job's record cannot be read",
    detail="The stored job is damaged or of an unknown form; submit it again.",
    retryable=False,
)


@dataclass(frozen=True)
class RecordPolicy:
    """What the transitions go by. The same for all processes of a deployment.

    Attributes:
        lease_ms: How long a task may go without a renewal.
        max_crashes: Consecutive crashes on one task that end the job.
        backoff_ms: Pause after the first, second, ... crash; the last repeats.
        render_ahead: Sections that may be sampled and not yet delivered.
        retention_ms: How long an ended job is kept.
        limits: What a tenant may, unless it has limits of its own.
        open_jobs: The most jobs there may be that have not ended; 0 is no limit.
    """

    lease_ms: int = 30_000
    max_crashes: int = 3
    backoff_ms: tuple[int, ...] = (0, 30_000, 120_000)
    render_ahead: int = 4
    retention_ms: int = 7 * DAY_MS
    limits: Limits = field(default_factory=Limits)
    open_jobs: int = 0

    def for_submissions(self) -> dict[str, int]:
        """What the script needs to decide whether a job may be submitted."""
        return {**asdict(self.limits), "open_jobs": self.open_jobs}

    def for_crashes(self) -> dict[str, Any]:
        """What the script needs to deal with a crash."""
        return {
            "max_crashes": self.max_crashes,
            "backoff_ms": self.backoff_ms,
            "crash_problem": WORKER_CRASHED.model_dump_json(),
            "invalid_problem": INVALID_RECORD.model_dump_json(),
        }


@dataclass(frozen=True)
class Submitted:
    """Answer to a submit; ``created`` is false when the job was there already.

    Attributes:
        quota: What the tenant may still submit, where that is limited.
    """

    job_id: str
    created: bool
    ring: Ring
    quota: Quota = field(default_factory=Quota)


@dataclass(frozen=True)
class Committed:
    """Answer to a commit; not accepted when the job is being cancelled.

    Attributes:
        ring: Does not know of `next`.
        next: What was claimed in the same step, if that was asked for and there was something.
    """

    accepted: bool
    ring: Ring
    next: Task | None = None


@dataclass(frozen=True)
class Swept:
    """Answer to a sweep: lanes of jobs whose lease had lapsed, and what to ring for."""

    lapsed: list[tuple[str, Lane]]
    ring: Ring


class Record:
    """All jobs of one Redis server."""

    def __init__(self, redis: Redis, policy: RecordPolicy | None = None) -> None:
        self.redis = redis
        self.policy = policy or RecordPolicy()
        self._script = Script(redis, *SCRIPT)

    # -- the gateway's half

    def submit(
        self, spec: JobSpec, idempotency: Idempotency | None = None, *, announced: bool = False
    ) -> Submitted:
        """Accept a job. When this returns, the job will end, whatever crashes.

        Args:
            spec: The job.
            idempotency: If the same was accepted within a day, that job is the answer.
            announced: Its picture was, by `Keeping.announce`; refused if it was swept meanwhile.

        Raises:
            IdempotencyMismatch: The key came with another request.
            UploadTooSlow: The picture was swept.
            QuotaExceeded: A limit of the tenant is reached.
            ServiceFull: The service holds as many jobs as it may.
        """
        answer = self._script.call(
            "submit",
            id=spec.id,
            version=spec.schema_version,
            spec=spec.for_record(),
            tenant=spec.tenant,
            preset=spec.request.preset,
            priority=spec.priority,
            cost=spec.section_cost,
            sections=spec.num_sections,
            ahead=self.policy.render_ahead,
            retention=self._retention_ms(spec),
            announced=announced,
            limits=self.policy.for_submissions(),
            **_webhook(spec),
            **_metadata(spec),
            **deadlines_of(spec.request),
            **({} if idempotency is None else {"idempotency": asdict(idempotency)}),
        )
        if answer.get("mismatch"):
            raise IdempotencyMismatch(spec.id)
        if answer.get("late"):
            raise UploadTooSlow(spec.id)
        quota = quota_of(answer.get("quota", {}))
        return Submitted(answer["id"], answer["created"], _ring(answer), quota)

    def require_room(self, tenant: str) -> None:
        """Find out before any work is done for a submission whether it would be refused.

        Only saves work: `submit` decides.

        Raises:
            QuotaExceeded: A limit of the tenant is reached.
            ServiceFull: The service holds as many jobs as it may.
        """
        quota_of(self._script.call("room", tenant=tenant, limits=self.policy.for_submissions()))

    def submitted_as(self, idempotency: Idempotency) -> str | None:
        """The job that the same submission got before, if it is still there.

        Only saves work: between this answer and a submit the same may be accepted.

        Raises:
            IdempotencyMismatch: The key came with another request.
        """
        known = cast(str | None, self.redis.get(f"{KEY_PREFIX}idempotent:{idempotency.key}"))
        if known is None:
            return None
        digest, _, job_id = known.partition(" ")
        if not self.redis.exists(_job_key(job_id)):
            return None
        if digest != idempotency.digest:
            raise IdempotencyMismatch(job_id)
        return job_id

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel: at once when no worker holds the job, else when the workers have stopped.

        Raises:
            JobNotFound: There is no such job.
            JobFinished: It has ended.
        """
        answer = self._control("cancel", job_id, token=uuid.uuid4().hex)
        return JobStatus(answer["status"])

    def pause(self, job_id: str) -> JobStatus:
        """Hand out no further task of a job; tasks in work are finished.

        Raises:
            JobNotFound: There is no such job.
            JobFinished: It has ended.
            JobConflict: It is being cancelled.
        """
        return JobStatus(self._control("pause", job_id)["status"])

    def resume(self, job_id: str) -> tuple[JobStatus, Ring]:
        """Undo a pause. Raises as `pause`."""
        answer = self._control("resume", job_id)
        return JobStatus(answer["status"]), _ring(answer)

    def sweep(self, limit: int = 100) -> Swept:
        """Take back expired leases and find lanes that have work. Any number may sweep at once."""
        answer = self._script.call("sweep", policy=self.policy.for_crashes(), limit=limit)
        lapsed = [(job_id, Lane(lane)) for job_id, lane in _pairs(answer.get("lapsed"))]
        return Swept(lapsed, _ring(answer))

    def queue_position(self, job_id: str) -> int | None:
        """Its place among the jobs that wait for their first task, from 1; None if it does not."""
        position: int | None = self._script.call("position", id=job_id).get("position")
        return position

    # -- the worker's half

    def claim(self, worker: WorkerIdentity, token: str) -> Task | None:
        """Take the next task of a lane: highest class, least served tenant, first come.

        Args:
            worker: Who asks, and what it can serve.
            token: Unique to this request; the same token gets the same answer.
        """
        while True:
            answer = self._script.call("claim", **self._asking(worker, token))
            if "task" not in answer:
                return None
            task = self._task(worker.lane, answer["task"])
            if task is not None:
                return task

    def renew(self, task: Task) -> Signal:
        """Keep the lease.

        Raises:
            LeaseLost: Another worker may own the task.
        """
        return self._signal("renew", **task.claim, lease_ms=self.policy.lease_ms)

    def report_step(self, task: Task, step: int, total_steps: int) -> Signal:
        """Make a denoising step known: the latest value, published at most twice a second.

        Args:
            task: A sample task.
            step: Steps done.
            total_steps: Steps of the section.

        Raises:
            LeaseLost: Another worker may own the task.
        """
        return self._signal(
            "step", **task.claim, section=task.section, step=step, total_steps=total_steps
        )

    def report_preview(self, task: Task, step: int, total_steps: int, picture: Picture) -> Signal:
        """Make known what a section looks like: published, and kept for a minute.

        Args:
            task: A sample task.
            step: Steps done.
            total_steps: Steps of the section.
            picture: Some kilobytes.

        Raises:
            LeaseLost: Another worker may own the task.
        """
        shown = {**asdict(picture), "image": base64.b64encode(picture.image).decode()}
        where = {"section": task.section, "step": step, "total_steps": total_steps}
        return self._signal("preview", **task.claim, **where, **shown)

    def commit(
        self,
        task: Task,
        artifact: Artifact,
        spent: Spent | None = None,
        then: tuple[WorkerIdentity, str] | None = None,
    ) -> Committed:
        """Make a task's result part of the job.

        Args:
            task: As claimed.
            artifact: Its result.
            spent: What it took.
            then: Who claims the lane's next task in the same step, and with which token.

        Raises:
            LeaseLost: Another worker may own the task; the result is not part of the job.
        """
        stored = artifact.model_dump_json(exclude_none=True)
        answer = self._script.call(
            "commit",
            **task.claim,
            number=task.number,
            artifact=stored,
            **({"spent": spent.for_script()} if spent else {}),
            **({"next": self._asking(*then)} if then else {}),
        )
        if answer.get("signal") == "lost":
            raise LeaseLost(f"{task.kind} of job {task.job_id}")
        claimed = self._task(task.lane, answer["task"]) if "task" in answer else None
        return Committed(answer["accepted"], _ring(answer), claimed)

    def release(self, task: Task) -> Ring:
        """Give a task back unfinished, at no charge: drained, paused, or cancelled."""
        return _ring(self._script.call("release", **task.claim))

    def fail(self, task: Task, problem: Problem) -> Ring:
        """Report an attempt that failed: again after a pause if retryable, else the job's end."""
        answer = self._script.call(
            "fail",
            **task.claim,
            code=problem.code,
            problem=problem.model_dump_json(),
            retryable=problem.retryable,
            policy=self.policy.for_crashes(),
        )
        return _ring(answer)

    # -- reading

    def get(self, job_id: str) -> Job:
        """The state of a job.

        Raises:
            JobNotFound: There is no such job, or no longer.
            RecordUnreadable: The record is damaged.
        """
        return job_of(job_id, self._fields(job_id))

    def spec(self, job_id: str) -> JobSpec:
        """The job as accepted. Raises as `get`."""
        stored = cast(str | None, self.redis.hget(_job_key(job_id), "spec"))
        if stored is None:
            raise JobNotFound(job_id)
        return spec_of(job_id, {"spec": stored})

    def preview(self, job_id: str) -> PreviewEvent | None:
        """The latest preview of a job, if it is not older than a minute."""
        stored = cast(str | None, self.redis.get(f"{_job_key(job_id)}:preview"))
        return None if stored is None else PreviewEvent.model_validate_json(stored)

    def look(self, job_id: str) -> tuple[Job, Progress, JobMetrics]:
        """State, progress and what it took in one reading. Raises as `get`."""
        fields = self._fields(job_id)
        return job_of(job_id, fields), progress_of(job_id, fields), metrics_of(job_id, fields)

    def expires_at(self, job_id: str) -> int | None:
        """When an ended job goes, with its files: milliseconds since the epoch."""
        score = self.redis.zscore(f"{KEY_PREFIX}expiring", job_id)
        return None if score is None else int(score)

    def progress(self, job_id: str) -> Progress:
        """How far a job is. Raises as `get`."""
        return progress_of(job_id, self._fields(job_id))

    def now(self) -> int:
        """Milliseconds since the epoch on the server's clock."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    # -- inside

    def _retention_ms(self, spec: JobSpec) -> int:
        own = spec.request.retention_seconds
        return self.policy.retention_ms if own is None else 1000 * own

    def _control(self, transition: str, job_id: str, **arguments: Any) -> dict[str, Any]:
        answer = self._script.call(transition, id=job_id, **arguments)
        if answer.get("missing"):
            raise JobNotFound(job_id)
        if "finished" in answer:
            raise JobFinished(job_id, answer["finished"])
        if "conflict" in answer:
            raise JobConflict(f"job {job_id} is {answer['conflict']}")
        return answer

    def _signal(self, transition: str, **arguments: Any) -> Signal:
        signal = self._script.call(transition, **arguments)["signal"]
        if signal == "lost":
            raise LeaseLost(f"{arguments['lane']} of job {arguments['id']}")
        return Signal(signal)

    def _asking(self, worker: WorkerIdentity, token: str) -> dict[str, Any]:
        return {
            "lane": worker.lane,
            "worker": worker.name,
            "token": token,
            "fingerprints": dict(worker.fingerprints),
            "lease_ms": self.policy.lease_ms,
            "policy": self.policy.for_crashes(),
            "version": SCHEMA_VERSION,
        }

    def _task(self, lane: Lane, found: Mapping[str, Any]) -> Task | None:
        """A claimed task; None if its record is gone, or cannot be read, which ends the job."""
        job_id = found["id"]
        try:
            fields = self._fields(job_id)
            return Task(
                job_id=job_id,
                lane=lane,
                number=found["number"],
                fence=found["fence"],
                crashes=found["crashes"],
                spec=spec_of(job_id, fields),
                artifacts=artifacts_of(job_id, fields),
                leaves_more=found["more"],
            )
        except JobNotFound:
            return None
        except RecordUnreadable:
            self._refuse(lane, found)
            return None

    def _refuse(self, lane: Lane, found: Mapping[str, Any]) -> None:
        """End a job whose record cannot be read, so that it blocks nobody."""
        self._script.call(
            "fail",
            id=found["id"],
            lane=lane,
            fence=found["fence"],
            code=INVALID_RECORD.code,
            problem=INVALID_RECORD.model_dump_json(),
            retryable=False,
            policy=self.policy.for_crashes(),
        )

    def _fields(self, job_id: str) -> dict[str, str]:
        fields = cast(dict[str, str], self.redis.hgetall(_job_key(job_id)))
        if not fields:
            raise JobNotFound(job_id)
        return fields


def _webhook(spec: JobSpec) -> dict[str, str]:
    webhook = spec.request.webhook
    return {} if webhook is None else {"webhook": webhook.model_dump_json()}


def _metadata(spec: JobSpec) -> dict[str, str]:
    metadata = spec.request.metadata
    return {"metadata": json.dumps(metadata)} if metadata else {}


def _job_key(job_id: str) -> str:
    return f"{KEY_PREFIX}job:{job_id}"


def _pairs(value: Any) -> list[tuple[str, str]]:
    # An empty Lua table arrives as an object.
    return [(first, second) for first, second in value or []]


def _ring(answer: Mapping[str, Any]) -> Ring:
    return [(Lane(lane), preset) for lane, preset in _pairs(answer.get("ring"))]
