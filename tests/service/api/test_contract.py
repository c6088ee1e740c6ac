"""Every operation of the OpenAPI document, asked with what its schemas allow and what they do not.

schemathesis draws the requests and checks the answers: no 5xx, no status, media type, header or
body that the document does not promise. Ids of real jobs and a real picture are put in place of
what was drawn, or everything would end at 404 and 422.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.api.app import create_app
from service.contract.connections import connect
from service.contract.record import Record
from service.contract.settings import Settings
from tests.service.conftest import RunningGateway
from tests.support.lanes import HandWorker
from tests.support.valkey import Valkey

EXAMPLES = 40
CHOSEN_BY_VALUE = ("POST /jobs", "POST /v1/videos")
"""What a service serves, and whether bytes are a picture, no schema says."""

SCHEMA = schemathesis.openapi.from_dict(create_app(Settings(auth="open")).openapi())
OPERATIONS: dict[str, Any] = {
    operation.label: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())  # type: ignore[union-attr]
}


@pytest.fixture(scope="module")
def job_ids(shared_gateway: RunningGateway, valkey: Valkey, picture: bytes) -> Iterator[str]:
    """Ids of jobs that have ended, and of none, over and over."""
    parts = shared_gateway.app.state.services
    valkey.empty()  # other modules leave records that nobody can read

    def submit() -> str:
        form = {"prompt": "x", "seconds": "1"}
        answer = httpx.post(f"{shared_gateway.url}/jobs", data=form, files={"image": picture})
        return str(answer.json()["id"])

    with connect(shared_gateway.settings.redis_url) as client:
        worker = HandWorker(Record(client), parts.storage)
        completed = submit()
        worker.run_all(1)
        cancelled = submit()
        httpx.post(f"{shared_gateway.url}/jobs/{cancelled}/cancel").raise_for_status()
    return cycle([completed, cancelled, "0" * 32])


@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_are_as_documented(
    label: str, shared_gateway: RunningGateway, job_ids: Iterator[str], picture: bytes
) -> None:
    operation = OPERATIONS[label]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=m) for m in GenerationMode)))
    def ask(case: Any) -> None:
        if "job_id" in case.path_parameters:
            case.path_parameters["job_id"] = next(job_ids)
        case.call_and_validate(base_url=shared_gateway.url, timeout=20, excluded_checks=excluded)

    excluded = [positive_data_acceptance] if label in CHOSEN_BY_VALUE else []
    ask()


@pytest.mark.parametrize("label", CHOSEN_BY_VALUE)
def test_what_is_accepted_is_as_documented(
    label: str, shared_gateway: RunningGateway, picture: bytes
) -> None:
    operation = OPERATIONS[label]
    field = "image" if label == "POST /jobs" else "input_reference"
    for fields in ({}, {"steps": "3"}, {"seed": "7", "seconds": "2.5"}):
        body = {"prompt": "x", field: picture, **fields}
        case = operation.Case(media_type="multipart/form-data", body=body)
        answer = case.call_and_validate(base_url=shared_gateway.url, timeout=20)
        assert answer.status_code in (200, 202)
