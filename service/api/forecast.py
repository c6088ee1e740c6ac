"""What a submission would come to, decided and estimated without accepting it."""

from __future__ import annotations

from functools import partial

from anyio import to_thread
from starlette.requests import Request

from service.api.acceptance import prepare, read_in_turn
from service.api.deps import Services
from service.api.plan_views import plan_view
from service.api.submission import Submission, read_submission
from service.contract.census import seconds_per_cost, take_census
from service.contract.turns import Ahead
from service.contract.views import DryRunView, EstimateView, InputView


async def forecast_in_turn(parts: Services, tenant: str, request: Request) -> DryRunView:
    """Read a submission and say what would come of it; it takes its turn among submissions.

    Raises as `service.api.acceptance.accept`, except for the tenant's limits: a dry run uses none.
    """
    submission = await read_in_turn(parts, request, read_submission)
    work = partial(forecast, parts, tenant, submission)
    return await to_thread.run_sync(work, limiter=parts.submissions)


def forecast(parts: Services, tenant: str, submission: Submission) -> DryRunView:
    """What would come of a submission. Blocks; stores nothing."""
    spec, _ = prepare(parts, tenant, submission)
    preset = spec.request.preset
    per_cost, measured = seconds_per_cost(parts.redis, preset)
    backlog = take_census(parts.redis).backlog_seconds.get(preset, 0.0)
    seconds = spec.num_sections * spec.section_cost * per_cost
    job = Ahead(spec.id, tenant, spec.priority, order=0, seconds=seconds)
    expected = parts.outlook.with_another(job, preset, spec.num_sections, spec.section_cost)
    # A seed that was only drawn to plan with is not the one a job would get.
    shown = spec.request.model_copy(update={"seed": submission.request.seed})
    return DryRunView(
        input=InputView(**shown.model_dump()),
        plan=plan_view(spec),
        estimate=EstimateView(
            gpu_seconds=round(seconds, 1),
            backlog_gpu_seconds=round(backlog, 1),
            wait_seconds=expected.begins,
            eta_seconds=expected.ends,
            measured=measured,
        ),
    )
