"""The finished video: a signed link that expires, made only for a completed job."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, RedirectResponse

from service.api.deps import OwnedJob, Services, TheServices
from service.api.errors import ApiProblem, documented
from service.api.plan_views import video_view
from service.contract.job import Job, JobSpec
from service.contract.views import VideoLink

router = APIRouter(tags=["video"])


@router.get(
    "/jobs/{job_id}/video",
    response_model=VideoLink,
    responses={
        200: {"description": "With `Accept: application/json`, the link and what it leads to."},
        302: {
            "description": "Otherwise a redirect to the link, which expires after 15 minutes.",
            "headers": {"Location": {"description": "The link.", "schema": {"type": "string"}}},
        },
        **documented(401, 404, 409, 500, 503),
    },
)
def read_video(
    spec: OwnedJob, parts: TheServices, accept: Annotated[str, Header()] = "*/*"
) -> Response:
    """Get the finished video."""
    view = link_to_video(parts, spec)
    if "application/json" in accept:
        return JSONResponse(view.model_dump(mode="json"))
    return RedirectResponse(view.url, HTTPStatus.FOUND)


def link_to_video(parts: Services, spec: JobSpec) -> VideoLink:
    """A fresh link to a job's video. Raises ApiProblem if there is none (yet)."""
    job = parts.record.get(spec.id)
    if job.video is None:
        raise _no_video(job)
    link = parts.links.to(job.video, f"{job.id}.mp4")
    view = video_view(spec, job.video)
    return VideoLink(**view.model_dump(), url=link.url, expires_at=link.expires_at)


def _no_video(job: Job) -> ApiProblem:
    if job.status.terminal:
        return ApiProblem("no_video", f"The job {job.status.value}; its clips may be in the job.")
    return ApiProblem("video_not_ready", f"The job is {job.status.value}; follow its events.")
