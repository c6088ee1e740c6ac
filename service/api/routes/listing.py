"""A tenant's jobs, page by page, and their deletion."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from service.api.deps import OwnedJob, Services, TheServices, TheTenant
from service.api.errors import ApiProblem, documented
from service.api.removal import remove
from service.api.representation import job_view
from service.contract.errors import JobNotFound
from service.contract.job import MAX_METADATA, MAX_METADATA_CHARACTERS, JobRequest, JobStatus
from service.contract.listing import Chosen
from service.contract.views import FieldError, JobListView, JobView

router = APIRouter(tags=["jobs"])

_METADATA = re.compile(r"metadata\[([A-Za-z0-9_.-]{1,64})\]")
_METADATA_PARAMETER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "description": "Only jobs whose metadata hold all of this: `metadata[project]=dance`.",
    "style": "deepObject",
    "explode": True,
    "schema": {
        **JobRequest.model_json_schema()["properties"]["metadata"],
        "description": "As many names as a job may have; each with the whole value.",
    },
    "example": {"project": "dance"},
}
"""Written out: FastAPI knows no parameter whose name goes on in brackets."""


def asked_metadata(request: Request) -> dict[str, str]:
    """The metadata to look for. Raises ApiProblem."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.partition("[")[0] != "metadata":
            continue
        match = _METADATA.fullmatch(name)
        if match is None or found.setdefault(match[1], value) != value:
            raise _no_filter("Write metadata[name]=value, each name once.")
        if len(found) > MAX_METADATA or len(value) > MAX_METADATA_CHARACTERS:
            limits = f"{MAX_METADATA} names with {MAX_METADATA_CHARACTERS} characters each"
            raise _no_filter(f"Ask for at most {limits}.")
    return found


def _no_filter(detail: str) -> ApiProblem:
    errors = [FieldError(pointer="#/query/metadata", detail=detail)]
    return ApiProblem("invalid_request", "See errors for the fields and the reasons.", errors)


AskedMetadata = Annotated[dict[str, str], Depends(asked_metadata)]

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query(description="`desc`: newest first.")]
Cursor = Annotated[
    str | None, Query(description="`next` of the page before.", pattern=r"^[0-9]{1,15}$")
]


@router.get(
    "/jobs",
    openapi_extra={"parameters": [_METADATA_PARAMETER]},
    responses={
        200: {
            "description": "Some of the jobs.",
            "headers": {
                "Link": {
                    "description": 'The next page, `rel="next"`.',
                    "schema": {"type": "string"},
                }
            },
        },
        **documented(401, 422, 500, 503),
    },
)
def list_jobs(
    asking: TheTenant,
    parts: TheServices,
    response: Response,
    metadata: AskedMetadata,
    limit: Limit = 20,
    after: Cursor = None,
    order: Order = "desc",
    status: Annotated[list[JobStatus] | None, Query(description="Only these; repeatable.")] = None,
) -> JobListView:
    """List jobs, newest first.

    A page may be shorter than `limit` and not the last: follow `next` until it is null.
    """
    chosen = Chosen(status or (), metadata)
    page = parts.listing.page(asking, limit, after=after, chosen=chosen, ascending=order == "asc")
    if page.after is not None:
        asked = [("status", each.value) for each in status or ()]
        asked += [(f"metadata[{name}]", value) for name, value in metadata.items()]
        query = urlencode([("limit", limit), ("order", order), *asked, ("after", page.after)])
        here = f"{parts.settings.public_url.rstrip('/')}/jobs"
        response.headers["Link"] = f'<{here}?{query}>; rel="next"'
    return JobListView(data=job_views(parts, page.ids), next=page.after)


def job_views(parts: Services, job_ids: list[str]) -> list[JobView]:
    """Jobs as they are now, without those that expired meanwhile."""
    found = []
    for job_id in job_ids:
        try:
            found.append(job_view(parts, parts.record.spec(job_id)))
        except JobNotFound:
            continue
    return found


@router.delete(
    "/jobs/{job_id}",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses={
        204: {"description": "The job and everything stored of it are gone."},
        **documented(401, 404, 409, 410, 500, 503),
    },
)
def delete_job(spec: OwnedJob, parts: TheServices) -> Response:
    """Delete a job that has ended, its clips and its video. Cancel one that runs, first."""
    remove(parts, spec)
    return Response(status_code=HTTPStatus.NO_CONTENT)
