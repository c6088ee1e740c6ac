"""From a valid submission to an accepted job.

The order is what makes the promise of the 202: look at the picture, plan with the library's own
code, store the picture, and only then write the record, whose script's answer is the acceptance.
A bell that cannot be rung after that costs at most a sweep.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import redis.exceptions
from anyio import to_thread
from starlette.requests import Request

from framepack.errors import InvalidRequest
from framepack.generation.plan import MAX_SEED, Plan, plan_generation
from service.api.deps import Services
from service.api.errors import ApiProblem
from service.api.images import DecodedImage
from service.api.quota import seconds_until_room
from service.api.representation import just_accepted
from service.api.submission import Submission
from service.api.webhooks.poster import require_reachable
from service.contract import tracing
from service.contract.errors import IdempotencyMismatch, UploadTooSlow
from service.contract.idempotency import Idempotency
from service.contract.job import Artifact, JobRequest, JobSpec
from service.contract.limits import Quota, QuotaExceeded, ServiceFull
from service.contract.logs import about
from service.contract.record import Ring, Submitted
from service.contract.settings import Settings
from service.contract.views import JobView

log = logging.getLogger(__name__)

Reader = Callable[[Request], Awaitable[Submission]]

MOST_WAITING = 32
"""Submissions that wait, each with its picture in memory, before more are refused."""


@dataclass(frozen=True)
class Accepted:
    """The job of a submission; replayed if the same submission had got it before.

    Attributes:
        quota: What the tenant may still submit, where that is limited.
    """

    spec: JobSpec
    replayed: bool
    quota: Quota = field(default_factory=Quota)


def accept(parts: Services, tenant: str, submission: Submission) -> Accepted:
    """Accept a job. Blocks, so call it in a thread.

    Raises:
        InvalidRequest: A field cannot be served.
        IdempotencyMismatch: The key came with another request.
        QuotaExceeded: A limit of the tenant is reached.
        ApiProblem: The service is full.
        ImageRefused: The picture cannot.
        UploadTooSlow: Storing the picture took longer than uploads are kept.
        StorageError: The storage is away; nothing was accepted.
        redis.exceptions.RedisError: The record is away; nothing was accepted for certain.
    """
    parts.durability.require()
    same = _idempotency(tenant, submission)
    known = same and parts.record.submitted_as(same)
    if known:
        return Accepted(parts.record.spec(known), replayed=True)
    with _saying_when_there_is_room(parts):
        parts.record.require_room(tenant)
        spec, png = prepare(parts, tenant, submission)
        submitted = _submit(parts, spec, png, same)
    ring(parts, submitted.ring)
    if submitted.job_id != spec.id:
        # The same request, a moment earlier, through this gateway or another.
        if spec.image is not None:
            parts.storage.delete(spec.image.key)
        return Accepted(parts.record.spec(submitted.job_id), replayed=True)
    with about(job_id=spec.id):
        log.info("accepted a job")
    return Accepted(spec, replayed=False, quota=submitted.quota)


def _submit(parts: Services, spec: JobSpec, png: bytes, same: Idempotency | None) -> Submitted:
    """Store the picture, then the job; nothing stays behind of a job that is refused."""
    if spec.image is None:
        return parts.record.submit(spec, same)
    # A gateway that dies from here on leaves a picture that the cleaner knows of.
    parts.keeping.announce(spec.id)
    parts.storage.put(spec.image.key, png, spec.image.content_type)
    try:
        return parts.record.submit(spec, same, announced=True)
    except (QuotaExceeded, ServiceFull, IdempotencyMismatch, UploadTooSlow):
        parts.storage.delete(spec.image.key)
        raise


@contextmanager
def _saying_when_there_is_room(parts: Services) -> Iterator[None]:
    try:
        yield
    except ServiceFull:
        raise ApiProblem(
            "full",
            "Try again when a job has ended; Retry-After is an estimate of that.",
            headers={"Retry-After": str(seconds_until_room(parts.outlook))},
        ) from None


async def accept_in_turn(
    parts: Services, tenant: str, request: Request, read: Reader
) -> tuple[Accepted, JobView]:
    """Read a submission and accept its job, where not too many wait already. Raises as `accept`.

    Args:
        parts: Of the application.
        tenant: Who asks.
        request: What they sent.
        read: Finds the submission in it.

    Returns:
        The job, and how it looks then.
    """
    submission = await read_in_turn(parts, request, read)

    def work() -> tuple[Accepted, JobView]:
        accepted = accept(parts, tenant, submission)
        # Here, since handing over to another thread costs as much as looking.
        return accepted, just_accepted(parts, accepted.spec)

    with tracing.accepting(request.headers):
        return await to_thread.run_sync(work, limiter=parts.submissions)


async def read_in_turn(parts: Services, request: Request, read: Reader) -> Submission:
    """Read a submission, where not too many wait already. Raises ApiProblem."""
    if parts.submissions.statistics().tasks_waiting >= MOST_WAITING:
        raise ApiProblem("busy", "Many jobs are being submitted; try again shortly.")
    return await read(request)


def _idempotency(tenant: str, submission: Submission) -> Idempotency | None:
    if submission.idempotency_key is None:
        return None
    # What equals its default is left out, so that a field that is new here changes nothing.
    fields = submission.request.model_dump_json(exclude_defaults=True).encode()
    body = fields + hashlib.sha256(submission.image or b"").digest()
    return Idempotency.of(tenant, submission.idempotency_key, body)


def ring(parts: Services, lanes: Ring) -> None:
    """Wake workers for what the record says has work; a lost bell is rung again by the sweeper."""
    try:
        parts.bells.ring(lanes)
    except redis.exceptions.RedisError as error:
        log.warning("no bell was rung, the sweeper will: %s", type(error).__name__)


def prepare(parts: Services, tenant: str, submission: Submission) -> tuple[JobSpec, bytes]:
    """All that can be decided without accepting: the job, and its picture as PNG, if it has one.

    Raises:
        InvalidRequest: A field cannot be served.
        ImageRefused: The picture cannot.
    """
    request = submission.request
    if request.preset not in parts.settings.presets:
        known = ", ".join(parts.settings.presets)
        raise InvalidRequest("preset", f"this service has no such preset; choose one of: {known}")
    if request.webhook is not None:
        networks = parts.settings.webhook_networks
        require_reachable(request.webhook.url, networks, "webhook/url")
    if request.seed is None:
        request = request.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)})
    image = None
    if submission.image is not None:
        with parts.metrics.image_seconds.time():
            image = parts.decoders.decode(submission.image, tenant)
    plan = plan_generation(request.to_generation(), image.size if image else None)
    _check_codebook(parts.settings, plan)
    return _spec(tenant, request, plan, image), image.png if image else b""


def _check_codebook(settings: Settings, plan: Plan) -> None:
    """Refuse what no worker could do, see `Settings.codebooks`. Raises InvalidRequest."""
    preset = plan.request.preset
    shipped = plan.config.codebook and preset not in settings.weights
    if plan.history.discretised and not shipped and preset not in settings.codebooks:
        raise InvalidRequest(
            "schedule",
            f"+D discretises history, but the weights of preset {preset} have no codebook here: "
            "leave out +D, or have one fitted (`framepack codebook fit`) and FRAMEPACK_CODEBOOKS "
            "name the preset",
        )


def _spec(tenant: str, request: JobRequest, plan: Plan, image: DecodedImage | None) -> JobSpec:
    job_id = uuid.uuid4().hex
    return JobSpec(
        id=job_id,
        tenant=tenant,
        priority=request.priority,
        request=request,
        image=None if image is None else _artifact(job_id, image),
        image_size=None if image is None else image.size,
        order=plan.order,
        schedule=str(plan.schedule),
        num_sections=len(plan.sections),
        places=plan.places,
        num_frames=plan.num_pixel_frames,
        fps=plan.config.fps,
        video_size=(plan.height, plan.width),
        section_cost=section_cost(plan),
        traceparent=tracing.current_traceparent(),
    )


def _artifact(job_id: str, image: DecodedImage) -> Artifact:
    return Artifact(
        key=f"jobs/{job_id}/image.png",
        sha256=hashlib.sha256(image.png).hexdigest(),
        size_bytes=len(image.png),
        content_type="image/png",
    )


def section_cost(plan: Plan) -> float:
    """Predicted work of one section, in thousands of tokens through the transformer."""
    tokens = plan.schedule.target_tokens(*plan.latent_size)
    tokens += plan.schedule.context_tokens(*plan.latent_size)
    passes = 1 + (plan.cfg_scale > 1) + (plan.history.guidance > 1)
    return plan.steps * passes * tokens / 1000
