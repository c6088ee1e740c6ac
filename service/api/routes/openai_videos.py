"""`/v1/videos`: the OpenAI video dialect over the same jobs, for clients written for that API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from service.api.acceptance import accept_in_turn
from service.api.deps import OwnedJob, TheServices, TheTenant
from service.api.openai_dialect import (
    POLL_AFTER_MILLISECONDS,
    OpenAIVideoDeletedView,
    OpenAIVideoListView,
    OpenAIVideoView,
    creation_body_schema,
    documented_in_dialect,
    read_creation,
    video_of,
)
from service.api.quota import QUOTA_HEADERS, quota_headers
from service.api.removal import remove
from service.api.representation import job_view
from service.api.routes.listing import Limit, Order, job_views
from service.api.routes.video import link_to_video
from service.contract.views import JobView

router = APIRouter(prefix="/v1/videos", tags=["openai"])


@router.post(
    "",
    response_model=OpenAIVideoView,
    openapi_extra=creation_body_schema(),
    responses={
        200: {
            "description": "Accepted, durably, as by `POST /jobs`.",
            "headers": QUOTA_HEADERS,
        },
        **documented_in_dialect(400, 401, 408, 413, 415, 422, 429, 500, 503),
    },
)
async def create_video(request: Request, asking: TheTenant, parts: TheServices) -> Response:
    """Create a video from a picture (`input_reference`) and a prompt.

    `model` is one of this service's presets; fields of `POST /jobs` are taken as well. Of `size`
    the nearest shape that the model makes is taken, without it the picture's: the answer tells.
    """
    accepted, view = await accept_in_turn(parts, asking, request, read_creation)
    answer = _answer(view)
    answer.headers.update(quota_headers(accepted.quota))
    return answer


@router.get(
    "/{job_id}",
    response_model=OpenAIVideoView,
    responses={
        200: {"description": "The video's job."},
        **documented_in_dialect(401, 404, 410, 500, 503),
    },
)
def retrieve_video(spec: OwnedJob, parts: TheServices) -> Response:
    """Retrieve a video's job. A cancelled one is told as failed."""
    return _answer(job_view(parts, spec))


@router.get(
    "/{job_id}/content",
    status_code=HTTPStatus.FOUND,
    response_class=RedirectResponse,
    responses={
        302: {
            "description": "The finished video is there; the link expires after 15 minutes.",
            "headers": {"Location": {"description": "The link.", "schema": {"type": "string"}}},
        },
        **documented_in_dialect(401, 404, 409, 410, 422, 500, 503),
    },
)
def download_video(
    spec: OwnedJob, parts: TheServices, variant: Annotated[Literal["video"], Query()] = "video"
) -> Response:
    """Download a finished video. There is no other variant than the video itself."""
    return RedirectResponse(link_to_video(parts, spec).url, HTTPStatus.FOUND)


@router.get("", responses=documented_in_dialect(401, 422, 500, 503))
def list_videos(
    asking: TheTenant,
    parts: TheServices,
    limit: Limit = 20,
    after: Annotated[str | None, Query(pattern=r"^[0-9a-f]{32}$")] = None,
    order: Order = "desc",
) -> OpenAIVideoListView:
    """List videos, newest first; `after` is the id of the last one known."""
    place = None if after is None else parts.listing.place(asking, after)
    if after is not None and place is None:
        return OpenAIVideoListView(data=[])
    page = parts.listing.page(asking, limit, after=place, ascending=order == "asc")
    data = [video_of(job) for job in job_views(parts, page.ids)]
    ids = [video.id for video in data]
    return OpenAIVideoListView(
        data=data,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=page.after is not None,
    )


@router.delete("/{job_id}", responses=documented_in_dialect(401, 404, 409, 410, 500, 503))
def delete_video(spec: OwnedJob, parts: TheServices) -> OpenAIVideoDeletedView:
    """Delete a video's job and everything stored of it, once it has ended."""
    remove(parts, spec)
    return OpenAIVideoDeletedView(id=spec.id)


def _answer(job: JobView) -> Response:
    headers = {} if job.status.terminal else {"openai-poll-after-ms": POLL_AFTER_MILLISECONDS}
    return JSONResponse(video_of(job).model_dump(mode="json"), headers=headers)
