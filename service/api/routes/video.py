"""The finished video: a signed link that expires, made only for a completed job."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, RedirectResponse

from service.api.deps import OwnedJob, Services, TheServices
from service.api.errors import ApiProblem, documented
from service.api.plan_views import video_view
from service.api.schemas import MANIFEST_EXAMPLE
from service.contract.errors import ObjectNotFound
from service.contract.job import Artifact, Job, JobSpec, JobStatus
from service.contract.manifest import Manifest, manifest_key
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
        **documented(401, 404, 409, 410, 500, 503),
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


@router.get(
    "/jobs/{job_id}/manifest",
    response_model=Manifest,
    responses={
        200: {
            "description": "What decided the video's bytes.",
            "content": {"application/json": {"example": MANIFEST_EXAMPLE}},
        },
        **documented(401, 404, 409, 410, 500, 503),
    },
)
def read_manifest(spec: OwnedJob, parts: TheServices) -> Response:
    """Get everything needed to make the finished video again, byte by byte.

    The request with nothing left to defaults, the picture's hash, and of both engines weights'
    hashes, library versions, precision and caches. `framepack reproduce` reads it.
    """
    video = _video_of(parts, spec)
    try:
        found = parts.storage.get(manifest_key(video))
    except ObjectNotFound:
        raise ApiProblem("no_manifest", "It was made before manifests were kept.") from None
    return Response(found, media_type="application/json")


def link_to_video(parts: Services, spec: JobSpec) -> VideoLink:
    """A fresh link to a job's video. Raises ApiProblem if there is none (yet)."""
    video = _video_of(parts, spec)
    link = parts.links.to(video, f"{spec.id}.mp4")
    view = video_view(spec, video)
    return VideoLink(**view.model_dump(), url=link.url, expires_at=link.expires_at)


def _video_of(parts: Services, spec: JobSpec) -> Artifact:
    job = parts.record.get(spec.id)
    if job.video is None:
        raise _no_video(job)
    return job.video


def _no_video(job: Job) -> ApiProblem:
    if job.status.terminal:
        ended = "failed" if job.status is JobStatus.FAILED else "was cancelled"
        return ApiProblem("no_video", f"The job {ended}; the clips it has are in the job.")
    return ApiProblem("video_not_ready", f"The job is {job.status.value}; follow its events.")
