"""Looking at a job without a key: a token, the latest preview, a playlist that grows, its clips."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import RedirectResponse

from service.api.deps import OwnedJob, TheServices
from service.api.errors import ApiProblem, documented
from service.api.playlist import MEDIA_TYPE, playlist
from service.api.view_tokens import (
    DEFAULT_SECONDS,
    LEAST_SECONDS,
    MOST_SECONDS,
    Token,
    ViewedJob,
    ViewTokens,
)
from service.contract.views import TokenView

router = APIRouter(prefix="/jobs/{job_id}", tags=["viewing"])


@router.get("/token", responses=documented(401, 404, 410, 422, 500, 503))
def issue_token(
    spec: OwnedJob,
    parts: TheServices,
    response: Response,
    seconds: Annotated[int, Query(ge=LEAST_SECONDS, le=MOST_SECONDS)] = DEFAULT_SECONDS,
) -> TokenView:
    """Get a token to look at this job alone, for what cannot send a key in a header.

    It goes into the query (`?token=`) of the job's events, preview, playlist and clips, and ends by
    itself.
    """
    token, expires = ViewTokens(parts.settings.signing_secret).issue(spec.id, seconds)
    here = f"{parts.settings.public_url.rstrip('/')}/jobs/{spec.id}"
    return TokenView(
        token=token,
        expires_at=datetime.fromtimestamp(expires, UTC),
        events=f"{here}/events?token={token}",
        playlist=f"{here}/playlist.m3u8?token={token}",
    )


@router.get(
    "/preview",
    response_class=Response,
    responses={
        200: {"description": "The picture.", "content": {"image/jpeg": {}}},
        **documented(401, 404, 410, 422, 500, 503),
    },
)
def read_preview(spec: ViewedJob, parts: TheServices) -> Response:
    """Get the latest picture of what is being sampled; there is none older than a minute."""
    preview = parts.record.preview(spec.id)
    if preview is None:
        raise ApiProblem("no_preview", "Previews come while a section is sampled.")
    return Response(preview.image, media_type=preview.content_type)


@router.get(
    "/playlist.m3u8",
    response_class=Response,
    responses={
        200: {"description": "An HLS playlist.", "content": {MEDIA_TYPE: {}}},
        **documented(401, 404, 410, 422, 500, 503),
    },
)
def read_playlist(spec: ViewedJob, parts: TheServices, token: Token = None) -> Response:
    """Get a playlist (HLS) that grows while the video is made and ends with it.

    It lists what can be played from the beginning: with a forward order one more clip a section;
    the inverted order makes the beginning last, so there it stays empty until then.
    """
    query = f"?token={token}" if token else ""
    text = playlist(spec, parts.record.get(spec.id), query)
    return Response(text, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-cache"})


@router.get(
    "/clips/{section}.mp4",
    status_code=HTTPStatus.FOUND,
    response_class=RedirectResponse,
    responses={
        302: {
            "description": "The clip is there; the link expires after 15 minutes.",
            "headers": {"Location": {"description": "The link.", "schema": {"type": "string"}}},
        },
        **documented(401, 404, 410, 422, 500, 503),
    },
)
def read_clip(
    spec: ViewedJob,
    parts: TheServices,
    section: Annotated[int, Path(ge=0, le=99_999, description="In the order of sampling.")],
) -> Response:
    """Get the clip that became final with a section."""
    clips = parts.record.get(spec.id).clips
    clip = next((clip for clip in clips if clip.section == section), None)
    if clip is None:
        raise ApiProblem("no_clip", "Follow the job's events to learn when it can be played.")
    return RedirectResponse(parts.links.clip(spec.id, clip).url, HTTPStatus.FOUND)
