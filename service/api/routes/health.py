"""For the machinery around the service: is it alive, can it work, what does it count."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.deps import TheServices
from service.api.errors import PROBLEMS, ApiProblem, documented
from service.contract.job_problems import JOB_PROBLEMS
from service.contract.views import CheckView, ProblemKindsView, ProblemKindView, ReadinessView

router = APIRouter(tags=["operations"])


@router.get("/healthz", responses=documented())
async def alive() -> dict[str, str]:
    """The process answers; nothing else is looked at."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    response_model=ReadinessView,
    responses={
        503: {"description": "Something needed is away; says what.", "model": ReadinessView},
        **documented(),
    },
)
def ready(parts: TheServices) -> Response:
    """Whether jobs can be accepted now, and if not, why."""
    found = parts.readiness.look()
    checks = {name: CheckView(ok=fault is None, fault=fault) for name, fault in found.items()}
    fine = all(fault is None for fault in found.values())
    view = ReadinessView(status="ready" if fine else "unavailable", checks=checks)
    return JSONResponse(view.model_dump(), 200 if fine else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "The metrics.", "content": {"text/plain": {}}},
        **documented(404),
    },
)
def metrics(parts: TheServices) -> Response:
    """Metrics in the Prometheus text format; here only if they have no port of their own."""
    if parts.settings.metrics_port is not None:
        raise ApiProblem("not_found", "The metrics have a port of their own.")
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)


_KINDS: dict[str, ProblemKindView] = {
    **{
        code: ProblemKindView(
            code=code,
            title=kind.title,
            status=None,
            retryable=kind.retryable,
            meaning=kind.meaning,
        )
        for code, kind in JOB_PROBLEMS.items()
    },
    **{
        code: ProblemKindView(
            code=code, title=kind.title, status=kind.status, retryable=kind.retryable
        )
        for code, kind in PROBLEMS.items()
    },
}


@router.get("/problems", responses=documented())
async def problems() -> ProblemKindsView:
    """All codes, of answers and of failed jobs."""
    return ProblemKindsView(data=[_KINDS[code] for code in sorted(_KINDS)])


@router.get("/problems/{code}", responses=documented(404))
async def problem(code: str) -> ProblemKindView:
    """What a problem's code means; the `type` of every problem document leads here."""
    kind = _KINDS.get(code)
    if kind is None:
        raise ApiProblem("not_found", "There is no problem with this code.")
    return kind
