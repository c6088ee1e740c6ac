"""A tenant's jobs, page by page, and their deletion."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response

from service.api.deps import OwnedJob, Services, TheServices, TheTenant
from service.api.errors import documented
from service.api.removal import remove
from service.api.representation import job_view
from service.contract.errors import JobNotFound
from service.contract.job import JobStatus
from service.contract.views import JobListView, JobView

router = APIRouter(tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query(description="`desc`: newest first.")]
Cursor = Annotated[
    str | None, Query(description="`next` of the page before.", pattern=r"^[0-9]{1,15}$")
]


@router.get(
    "/jobs",
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
    limit: Limit = 20,
    after: Cursor = None,
    order: Order = "desc",
    status: Annotated[list[JobStatus] | None, Query(description="Only these; repeatable.")] = None,
) -> JobListView:
    """List jobs, newest first.

    A page may be shorter than `limit` and not the last: follow `next` until it is null.
    """
    page = parts.listing.page(
        asking, limit, after=after, statuses=status or (), ascending=order == "asc"
    )
    if page.after is not None:
        chosen = [("status", each.value) for each in status or ()]
        query = urlencode([("limit", limit), ("order", order), *chosen, ("after", page.after)])
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
        **documented(401, 404, 409, 500, 503),
    },
)
def delete_job(spec: OwnedJob, parts: TheServices) -> Response:
    """Delete a job that has ended, its clips and its video. One that runs is cancelled first."""
    remove(parts, spec)
    return Response(status_code=HTTPStatus.NO_CONTENT)
