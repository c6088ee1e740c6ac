"""What routes get handed: the parts of the application, who is asking, and the job asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends
from redis import Redis
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.api.auth import Caller, Callers
from service.api.durability import Durability
from service.api.event_messages import EventMessages
from service.api.followed import FollowedJobs
from service.api.images import ImageDecoders
from service.api.links import Links
from service.api.metrics import GatewayMetrics
from service.api.outlook import Outlook
from service.api.readiness import Readiness
from service.contract.access import Scope
from service.contract.bells import Bells
from service.contract.endpoints import Endpoints
from service.contract.errors import JobExpired, JobNotFound
from service.contract.eventlog import EventHub
from service.contract.job import JobSpec
from service.contract.keeping import Keeping
from service.contract.listing import Listing
from service.contract.outbox import Outbox
from service.contract.record import Record
from service.contract.settings import Settings
from service.contract.storage.base import Storage

_READING = ("GET", "HEAD")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Services:
    """The parts of one application.

    Attributes:
        submissions: Threads that may accept jobs at once, so that none is missing for reading.
    """

    settings: Settings
    redis: Redis
    record: Record
    bells: Bells
    storage: Storage
    links: Links
    decoders: ImageDecoders
    hub: EventHub
    metrics: GatewayMetrics
    callers: Callers
    durability: Durability
    readiness: Readiness
    outlook: Outlook
    endpoints: Endpoints
    listing: Listing
    keeping: Keeping
    outbox: Outbox
    followed: FollowedJobs
    messages: EventMessages
    submissions: CapacityLimiter


async def services(request: Request) -> Services:
    """The application's parts."""
    found: Services = request.app.state.services
    return found


TheServices = Annotated[Services, Depends(services)]


async def caller(request: Request, parts: TheServices) -> Caller:
    """Who is asking; reading needs the scope `jobs:read`, everything else `jobs:write`."""
    found = parts.callers.known(request)
    if found is None:
        found = await run_in_threadpool(parts.callers.of, request)
    found.require(Scope.JOBS_READ if request.method in _READING else Scope.JOBS_WRITE)
    return found


TheCaller = Annotated[Caller, Depends(caller)]


async def tenant(asking: TheCaller) -> str:
    """The tenant that asks."""
    return asking.tenant


TheTenant = Annotated[str, Depends(tenant)]


def owned_job(job_id: str, asking: TheTenant, parts: TheServices) -> JobSpec:
    """The job in the path, if it is the tenant's own; a foreign one does not exist for them.

    Raises:
        JobNotFound: There is no such job for this tenant.
        JobExpired: There was.
    """
    return owned_by(parts, asking, job_id)


def owned_by(parts: Services, asking: str, job_id: str) -> JobSpec:
    """A tenant's own job. Raises as `owned_job`."""
    if not _JOB_ID.fullmatch(job_id):
        raise JobNotFound(job_id)
    with telling_of_expired(parts, asking, job_id):
        spec = parts.record.spec(job_id)
    if spec.tenant != asking:
        raise JobNotFound(job_id)
    return spec


@contextmanager
def telling_of_expired(parts: Services, asking: str | None, job_id: str) -> Iterator[None]:
    """A job that is not there and was the tenant's has expired; None may know of anybody's.

    Raises:
        JobExpired: In the place of JobNotFound.
    """
    try:
        yield
    except JobNotFound:
        if parts.keeping.expired(asking, job_id):
            raise JobExpired(job_id) from None
        raise


OwnedJob = Annotated[JobSpec, Depends(owned_job)]
