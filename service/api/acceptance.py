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

import redis.exceptions

from framepack.errors import InvalidRequest
from framepack.generation.plan import MAX_SEED, Plan, plan_generation
from service.api.deps import Services
from service.api.images import DecodedImage
from service.api.submission import Submission
from service.contract.job import Artifact, JobRequest, JobSpec
from service.contract.tracing import current_traceparent

log = logging.getLogger(__name__)


def accept(parts: Services, tenant: str, submission: Submission) -> JobSpec:
    """Accept a job. Blocks, so call it in a thread.

    Raises:
        InvalidRequest: A field cannot be served.
        ImageRefused: The picture cannot.
        StorageError: The storage is away; nothing was accepted.
        redis.exceptions.RedisError: The record is away; nothing was accepted for certain.
    """
    parts.durability.require()
    request = submission.request
    if request.preset not in parts.settings.presets:
        known = ", ".join(parts.settings.presets)
        raise InvalidRequest("preset", f"this service has no such preset; choose one of: {known}")
    if request.seed is None:
        request = request.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)})
    with parts.metrics.image_seconds.time():
        image = parts.decoders.decode(submission.image)
    plan = plan_generation(request.to_generation(), image.size)
    spec = _spec(tenant, request, plan, image)
    parts.storage.put(spec.image.key, image.png, spec.image.content_type)
    submitted = parts.record.submit(spec)
    parts.metrics.submitted.labels(request.preset).inc()
    try:
        parts.bells.ring(submitted.ring)
    except redis.exceptions.RedisError as error:
        log.warning("job %s has no bell yet: %s", spec.id, type(error).__name__)
    return spec


def _spec(tenant: str, request: JobRequest, plan: Plan, image: DecodedImage) -> JobSpec:
    job_id = uuid.uuid4().hex
    return JobSpec(
        id=job_id,
        tenant=tenant,
        request=request,
        image=Artifact(
            key=f"jobs/{job_id}/image.png",
            sha256=hashlib.sha256(image.png).hexdigest(),
            size_bytes=len(image.png),
            content_type="image/png",
        ),
        image_size=image.size,
        num_sections=len(plan.sections),
        places=plan.places,
        num_frames=plan.num_pixel_frames,
        fps=plan.config.fps,
        video_size=(plan.height, plan.width),
        section_cost=section_cost(plan),
        traceparent=current_traceparent(),
    )


def section_cost(plan: Plan) -> float:
    """Predicted work of one section, in thousands of tokens through the transformer."""
    tokens = plan.schedule.target_tokens(*plan.latent_size)
    tokens += plan.schedule.context_tokens(*plan.latent_size)
    passes = 1 + (plan.cfg_scale > 1) + (plan.history.guidance > 1)
    return plan.steps * passes * tokens / 1000
