"""A dry run says what would come of a submission, and stores nothing."""

from typing import Any

import httpx
import pytest
from redis import Redis

from service.api.schemas import DRY_RUN_EXAMPLE
from service.contract.views import DryRunView
from tests.support.lanes import HandWorker


@pytest.fixture
def dry_run(http: httpx.Client, picture: bytes) -> Any:
    def send(**fields: str) -> httpx.Response:
        form = {"prompt": "The girl dances.", "seconds": "3", **fields}
        return http.post("/jobs?dry_run=true", data=form, files={"image": ("a.jpg", picture)})

    return send


def test_it_plans_what_the_submission_then_gets(
    dry_run: Any, submit: Any, redis: Redis, gateway: Any
) -> None:
    answer = dry_run(cfg_scale="3")
    assert answer.status_code == 200, answer.text
    assert not list(redis.scan_iter("framepack:job:*"))
    assert not redis.exists("framepack:open", "framepack:submitted")
    planned = DryRunView.model_validate(answer.json())
    assert planned.input.seed is None
    job = submit(seconds="3", cfg_scale="3")
    assert planned.plan.model_dump(mode="json") == job["plan"]


def test_its_pictures_are_not_kept(dry_run: Any, gateway: Any) -> None:
    storage = gateway.app.state.services.storage
    before = len(list(storage.list("")))
    assert dry_run().status_code == 200
    assert len(list(storage.list(""))) == before


def test_the_estimate_counts_work_and_what_waits_before_it(dry_run: Any, submit: Any) -> None:
    first = dry_run().json()["estimate"]
    assert first["backlog_gpu_seconds"] == 0
    assert not first["measured"]
    half, twice = dry_run(steps="8").json(), dry_run(steps="16").json()
    assert twice["estimate"]["gpu_seconds"] == pytest.approx(
        2 * half["estimate"]["gpu_seconds"], abs=0.11
    )
    submit(seconds="3")
    backlog = dry_run().json()["estimate"]["backlog_gpu_seconds"]
    assert backlog == pytest.approx(first["gpu_seconds"], abs=0.11)


def test_the_estimate_follows_what_was_measured(
    dry_run: Any, submit: Any, worker: HandWorker
) -> None:
    submit(seconds="1")
    worker.run_all(1)
    assert dry_run().json()["estimate"]["measured"] is True


def test_it_refuses_what_a_submission_would(dry_run: Any) -> None:
    for fields in ({"steps": "0"}, {"preset": "unknown"}, {"schedule": "nonsense"}):
        answer = dry_run(**fields)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == f"#/{next(iter(fields))}"


def test_the_example_is_one() -> None:
    shown = DryRunView.model_validate(DRY_RUN_EXAMPLE).model_dump(mode="json")
    assert set(shown) == set(DRY_RUN_EXAMPLE)
