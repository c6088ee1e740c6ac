"""Submit, read, pause, resume and cancel jobs."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from service.api.acceptance import accept_in_turn, ring
from service.api.deps import OwnedJob, Services, TheServices, TheTenant
from service.api.errors import documented
from service.api.forecast import forecast_in_turn
from service.api.quota import QUOTA_HEADERS, quota_headers
from service.api.representation import etag, job_view, just_accepted, unchanged
from service.api.schemas import DRY_RUN_EXAMPLE, JOB_EXAMPLE
from service.api.submission import read_submission, request_body_schema
from service.api.waiting import PREFERENCE_APPLIED, PreferredWait, applied, wait_for_end
from service.contract.errors import JobNotFound, RecordUnreadable
from service.contract.job import JobSpec, JobStatus
from service.contract.views import DryRunView, JobView

router = APIRouter(tags=["jobs"])

SECONDS_BETWEEN_POLLS = 2
MOST_SECONDS_BETWEEN_POLLS = 30

_ACCEPTED_HEADERS: dict[str, Any] = {
    "Location": {"description": "The job.", "schema": {"type": "string"}},
    **PREFERENCE_APPLIED,
    **QUOTA_HEADERS,
    "Idempotency-Replayed": {
        "description": "`true` where the same request had been accepted before.",
        "schema": {"type": "string"},
    },
}


@router.post(
    "/jobs",
    status_code=202,
    response_model=JobView,
    openapi_extra=request_body_schema(),
    responses={
        200: {
            "description": "With `dry_run`: what would come of it. Nothing was stored.",
            "model": DryRunView,
            "content": {"application/json": {"example": DRY_RUN_EXAMPLE}},
        },
        201: {
            "description": "With `Prefer: wait`: accepted, and the job has ended within that time.",
            "model": JobView,
            "headers": _ACCEPTED_HEADERS,
        },
        202: {
            "description": "Accepted, durably: the job survives any crash of the service.",
            "headers": {
                **_ACCEPTED_HEADERS,
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
            },
            "content": {"application/json": {"example": JOB_EXAMPLE}},
        },
        **documented(400, 401, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def submit_job(
    request: Request,
    asking: TheTenant,
    parts: TheServices,
    wait: PreferredWait,
    idempotency_key: Annotated[str | None, Header()] = None,
    dry_run: Annotated[bool, Query()] = False,
) -> Response:
    """Submit a picture and a prompt.

    The picture: PNG, JPEG or WebP of at most 10 MiB, from 64 to 4096 pixels a side; of an animation
    the first frame. Fields that are left out take the preset's defaults; a seed is drawn.

    With an `Idempotency-Key` (1 to 255 visible ASCII characters) the same request sent again within
    24 hours, even at the same time, is the same job; another request with that key is refused.

    With `dry_run=true` the same is checked and planned, and the answer says what would come of it:
    sections, length and size of the video, seconds of work. Nothing is stored or counted.

    With `Prefer: wait=30` the answer comes when the job has ended (201), or after that time (202).
    """
    if dry_run:
        forecast = await forecast_in_turn(parts, asking, request)
        return JSONResponse(forecast.model_dump(mode="json"))
    accepted, view = await accept_in_turn(parts, asking, request, read_submission)
    if wait:
        # Accepted it is, whatever comes now.
        with suppress(JobNotFound, RecordUnreadable, RedisError):
            await wait_for_end(parts, request, accepted.spec.id, wait)
        view = await run_in_threadpool(just_accepted, parts, accepted.spec)
    headers = {"Location": view.links.self, **applied(wait), **quota_headers(accepted.quota)}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    if wait and view.status.terminal:
        return JSONResponse(view.model_dump(mode="json"), HTTPStatus.CREATED, headers)
    headers["Retry-After"] = _next_look(view)
    return JSONResponse(view.model_dump(mode="json"), HTTPStatus.ACCEPTED, headers)


@router.get(
    "/jobs/{job_id}",
    response_model=JobView,
    responses={
        200: {
            "description": "The job as it is now.",
            "headers": {
                "ETag": {"description": "For If-None-Match.", "schema": {"type": "string"}},
                **PREFERENCE_APPLIED,
            },
            "content": {"application/json": {"example": JOB_EXAMPLE}},
        },
        304: {
            "description": "Nothing has changed since If-None-Match.",
            "headers": {"ETag": {"description": "The same.", "schema": {"type": "string"}}},
        },
        **documented(401, 404, 410, 500, 503),
    },
)
async def read_job(
    request: Request,
    spec: OwnedJob,
    parts: TheServices,
    wait: PreferredWait,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Read a job.

    With `Prefer: wait=30` the answer comes when the job has ended, or after that time.
    """
    await wait_for_end(parts, request, spec.id, wait)
    view = await run_in_threadpool(job_view, parts, spec)
    tag = etag(view, parts.links.period)
    headers = {"ETag": tag, "Cache-Control": "no-cache", **applied(wait)}
    if not view.status.terminal:
        headers["Retry-After"] = _next_look(view)
    if unchanged(tag, if_none_match):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return JSONResponse(view.model_dump(mode="json"), headers=headers)


@router.post(
    "/jobs/{job_id}/cancel",
    response_model=JobView,
    responses={
        200: {"description": "Cancelled."},
        202: {"description": "Cancelling: the workers have yet to stop.", "model": JobView},
        **documented(401, 404, 409, 410, 500, 503),
    },
)
def cancel_job(spec: OwnedJob, parts: TheServices) -> Response:
    """Cancel a job.

    A waiting job is cancelled at once. A running one stops within a denoising step and is
    `cancelling` until then. What was finished can still be played.
    """
    status = parts.record.cancel(spec.id)
    accepted = HTTPStatus.OK if status is JobStatus.CANCELLED else HTTPStatus.ACCEPTED
    return JSONResponse(_view(parts, spec), accepted)


@router.post(
    "/jobs/{job_id}/pause",
    response_model=JobView,
    responses={200: {"description": "Paused."}, **documented(401, 404, 409, 410, 500, 503)},
)
def pause_job(spec: OwnedJob, parts: TheServices) -> Response:
    """Pause a job: sections in work are finished, no other one begins until it is resumed.

    Pausing a paused job changes nothing.
    """
    parts.record.pause(spec.id)
    return JSONResponse(_view(parts, spec))


@router.post(
    "/jobs/{job_id}/resume",
    response_model=JobView,
    responses={
        200: {"description": "Waiting or running again."},
        **documented(401, 404, 409, 410, 500, 503),
    },
)
def resume_job(spec: OwnedJob, parts: TheServices) -> Response:
    """Go on with a paused job where it was. A job that is not paused is left as it is."""
    _, lanes = parts.record.resume(spec.id)
    ring(parts, lanes)
    return JSONResponse(_view(parts, spec))


def _next_look(job: JobView) -> str:
    """When it makes sense to poll again: soon while something happens, later in a long queue."""
    waits = job.status is JobStatus.QUEUED and job.eta_seconds is not None
    seconds = (job.eta_seconds or 0.0) / 4 if waits else 0.0
    return str(round(min(MOST_SECONDS_BETWEEN_POLLS, max(SECONDS_BETWEEN_POLLS, seconds))))


def _view(parts: Services, spec: JobSpec) -> object:
    return job_view(parts, spec).model_dump(mode="json")
