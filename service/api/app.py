"""The gateway's application: its parts put together, its routes, its life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from redis import Redis
from starlette.types import Scope

from service.api import errors
from service.api.auth import Callers
from service.api.cleaning import Cleaner, Deleted, clean_in_turn
from service.api.deps import Services
from service.api.durability import Durability
from service.api.event_messages import EventMessages
from service.api.followed import FollowedJobs
from service.api.images import ImageDecoders
from service.api.links import Links
from service.api.metrics import GatewayMetrics
from service.api.middleware import LimitBody, Observe
from service.api.origins import allow_origins
from service.api.outlook import Outlook
from service.api.readiness import Readiness
from service.api.record_metrics import RecordCollector
from service.api.rounds import rounds
from service.api.routes import (
    events,
    files,
    health,
    jobs,
    listing,
    openai_videos,
    options,
    page,
    video,
    viewing,
    webhooks,
)
from service.api.schemas import complete_document
from service.api.submission import MAX_FIELD_BYTES, MAX_FORM_BYTES, MAX_JSON_BYTES
from service.api.sweeper import Sweeper
from service.api.webhooks.sender import Sender, SenderPolicy
from service.contract.access import Access
from service.contract.bells import Bells
from service.contract.connections import connect
from service.contract.endpoints import Endpoints
from service.contract.errors import ContractError
from service.contract.eventlog import EventHub
from service.contract.keeping import Keeping
from service.contract.listing import Listing
from service.contract.outbox import Outbox
from service.contract.record import Record
from service.contract.settings import Settings
from service.contract.storage import LinkSigning, open_storage

CLEAN_SECONDS = 30.0
STORAGE_LOOKS = 4
"""How often all of the storage is looked through while something becomes old enough to delete."""
SUBMISSIONS_AT_ONCE = 8
SUBMISSION_PATHS = ("/jobs", "/v1/videos")
"""Their bodies hold a picture."""
REDIS_RETRIES = 3
"""After about half a second of trying, a request is answered 503 rather than kept waiting."""


def create_app(settings: Settings) -> FastAPI:
    """The application for a deployment. Connects to nothing yet."""
    parts = _services(settings)
    app = FastAPI(
        title="FramePack service",
        version="1",
        summary="Long videos from a picture and a prompt, as jobs that survive crashes.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.services = parts
    for module in (
        jobs,
        listing,
        events,
        video,
        viewing,
        webhooks,
        openai_videos,
        options,
        files,
        health,
        page,
    ):
        app.include_router(module.router)
        parts.metrics.expect(module.router.routes)
    app.mount("/page", page.page_files())
    errors.install(app)
    complete_document(app)
    # The last one added sees a request first.
    app.add_middleware(LimitBody, limit_of=_body_limit)
    app.add_middleware(Observe, metrics=parts.metrics)
    allow_origins(app, settings.allowed_origins)
    return app


def _services(settings: Settings) -> Services:
    redis = connect(settings.redis_url, retries=REDIS_RETRIES)
    signing = LinkSigning(settings.public_url, settings.signing_secret.get_secret_value().encode())
    storage = open_storage(settings.storage_url, signing)
    links = Links(storage)
    record = Record(redis, settings.record_policy())
    bells = Bells(settings.redis_url, hard_maximum_seconds=settings.hard_maximum_seconds)
    durability = Durability(redis, accept=settings.accept_unsafe_redis)

    def reach_redis() -> None:
        redis.ping()
        durability.require()

    return Services(
        settings=settings,
        redis=redis,
        record=record,
        bells=bells,
        storage=storage,
        links=links,
        decoders=ImageDecoders(),
        hub=EventHub(settings.redis_url),
        metrics=GatewayMetrics(RecordCollector(redis, settings.presets)),
        callers=Callers(_keys(settings, redis)),
        durability=durability,
        readiness=Readiness({"redis": reach_redis, "storage": storage.check}),
        outlook=Outlook(record, bells, settings.presets),
        endpoints=Endpoints(redis),
        listing=Listing(redis),
        keeping=Keeping(redis),
        outbox=Outbox(redis),
        followed=FollowedJobs(),
        messages=EventMessages(links),
        submissions=CapacityLimiter(SUBMISSIONS_AT_ONCE),
    )


def _sender(parts: Services) -> Sender:
    settings = parts.settings

    def traceparent_of(job_id: str) -> str:
        try:
            return parts.record.spec(job_id).traceparent if settings.traces_endpoint else ""
        except ContractError:  # a job that is gone; what it has to say is sent all the same
            return ""

    policy = SenderPolicy(
        settings.public_url,
        settings.webhook_networks,
        settings.webhook_retry_seconds,
        traceparent_of,
    )
    return Sender(parts.outbox, parts.endpoints, parts.metrics, policy)


def _keys(settings: Settings, redis: Redis) -> Access | None:
    """The keys that requests need; None in a service that is open to everybody."""
    if settings.auth == "open":
        return None
    return Access(redis, settings.key_pepper.get_secret_value().encode())


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    parts: Services = app.state.services
    async with AsyncExitStack() as stack:
        stack.callback(parts.redis.close)
        stack.callback(parts.bells.close)
        stack.enter_context(parts.decoders)
        await stack.enter_async_context(parts.hub)
        sweeper = Sweeper(parts.record, parts.bells, parts.metrics)
        await stack.enter_async_context(sweeper.running())
        await stack.enter_async_context(_cleaning(parts))
        await stack.enter_async_context(_sender(parts).running())
        yield {}


def _cleaning(parts: Services) -> AbstractAsyncContextManager[None]:
    age = 3600 * parts.settings.sweep_hours
    cleaner = Cleaner(parts.keeping, parts.storage, age)

    def tell(deleted: Deleted) -> None:
        parts.metrics.deleted.labels(deleted.reason).inc()
        parts.metrics.deleted_bytes.labels(deleted.reason).inc(deleted.size_bytes)

    def once() -> None:
        clean_in_turn(cleaner, parts.keeping, int(1000 * age / STORAGE_LOOKS), tell)

    def note(outcome: str) -> None:
        parts.metrics.cleanings.labels(outcome).inc()

    return rounds("clean", once, min(CLEAN_SECONDS, age / STORAGE_LOOKS), note)


def _body_limit(scope: Scope) -> int:
    if scope["method"] == "POST" and scope["path"] in SUBMISSION_PATHS:
        headers = dict(scope["headers"])
        is_form = headers.get(b"content-type", b"").startswith(b"multipart/")
        return MAX_FORM_BYTES if is_form else MAX_JSON_BYTES
    return MAX_FIELD_BYTES
