"""The OpenAPI document: complete, its examples true, its statuses the ones that are answered."""

from typing import Any

import httpx
import pytest

from service.api.errors import PROBLEMS
from service.api.openai_dialect import OpenAIProblemView
from service.api.schemas import JOB_EXAMPLE
from service.contract.views import JobView, ProblemView


@pytest.fixture
def document(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    assert set(operations(document)) == {
        "POST /jobs",
        "GET /jobs",
        "DELETE /jobs/{job_id}",
        "GET /jobs/{job_id}",
        "GET /jobs/{job_id}/events",
        "POST /jobs/{job_id}/cancel",
        "POST /jobs/{job_id}/pause",
        "POST /jobs/{job_id}/resume",
        "GET /jobs/{job_id}/video",
        "GET /jobs/{job_id}/manifest",
        "GET /jobs/{job_id}/token",
        "GET /jobs/{job_id}/preview",
        "GET /jobs/{job_id}/playlist.m3u8",
        "GET /jobs/{job_id}/clips/{section}.mp4",
        "GET /jobs/{job_id}/deliveries",
        "POST /jobs/{job_id}/deliveries/{delivery_id}/replay",
        "POST /webhooks",
        "GET /webhooks",
        "GET /webhooks/secret",
        "POST /webhooks/secret/rotate",
        "GET /webhooks/{webhook_id}",
        "DELETE /webhooks/{webhook_id}",
        "POST /v1/videos",
        "GET /v1/videos",
        "DELETE /v1/videos/{job_id}",
        "GET /v1/videos/{job_id}",
        "GET /v1/videos/{job_id}/content",
        "GET /options",
        "GET /files/{key}",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /problems",
        "GET /problems/{code}",
    }
    for operation in operations(document).values():
        assert operation["summary"]
        assert operation["description"]


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and not name.endswith("/readyz"):
                (media_type,) = answer["content"]
                assert media_type == "application/problem+json", (name, status)
                reference = answer["content"][media_type]["schema"]["$ref"]
                dialect = "OpenAI" if "/v1/" in name else ""
                assert reference == f"#/components/schemas/{dialect}ProblemView"
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [found for item in node for found in references(item)]
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for item in node.values() for found in references(item)]
        return []

    known = document["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(document)} <= set(known)
    assert "EventView" in known


def test_the_examples_are_true(document: dict[str, Any]) -> None:
    shown = JobView.model_validate(JOB_EXAMPLE).model_dump(mode="json")
    assert set(JOB_EXAMPLE) == set(shown)
    for operation in operations(document).values():
        for answer in operation["responses"].values():
            examples = answer.get("content", {}).get("application/problem+json", {})
            for code, example in examples.get("examples", {}).items():
                view = ProblemView.model_validate(example["value"])
                if "error" in example["value"]:
                    OpenAIProblemView.model_validate(example["value"])
                assert view.code == code
                assert PROBLEMS[code].status == view.status


def test_every_operation_tells_of_bodies_that_are_too_large(
    document: dict[str, Any], http: httpx.Client
) -> None:
    for name, operation in operations(document).items():
        assert "413" in operation["responses"], name
    # A question needs no body, and yet may come with one.
    answer = http.request("GET", "/jobs", content=bytes(1 << 17))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_both_bodies_of_a_submission_are_described(document: dict[str, Any]) -> None:
    content = document["paths"]["/jobs"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["properties"]
    body = content["application/json"]["schema"]
    assert form["image"]["format"] == "binary"
    assert set(form) - {"request"} == set(body["properties"])
    assert set(body["required"]) == {"prompt"}
