"""The words of the OpenAI video API for what this service does, as its official client says them.

A façade and nothing more: the same acceptance, the same record, the same links. What differs is
said here once: names of fields and states, times in whole seconds, errors that also carry the
member `error` the client looks for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from service.api.errors import (
    DIALECTS,
    ApiProblem,
    documented,
    invalid_fields,
    problem_response,
)
from service.api.submission import (
    MAX_FORM_BYTES,
    Submission,
    checked,
    form_of,
    from_texts,
    idempotency_key,
    image_problem,
    picture_of,
)
from service.contract.job import JobRequest, JobStatus
from service.contract.views import FieldError, JobView, ProblemView, View

POLL_AFTER_MILLISECONDS = "2000"
_THEIR_NAMES = {"preset": "model", "image": "input_reference"}
_OUR_NAMES = {theirs: ours for ours, theirs in _THEIR_NAMES.items()}
_DATA_URL = "data:image/"

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]
_STATUS: dict[JobStatus, VideoStatus] = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.PAUSED: "in_progress",
    JobStatus.CANCELLING: "in_progress",
    JobStatus.COMPLETED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "failed",
}


class OpenAIErrorView(View):
    """Why it went wrong, in the client's words."""

    code: str
    message: str
    type: str | None = None
    param: str | None = None


class OpenAIVideoView(View):
    """A job as the OpenAI video API shows it. Times are whole seconds since the epoch.

    Attributes:
        id: The job's id, the same as under `/jobs`.
        model: The preset.
        seconds: Of the finished video; sections are whole, so rarely exactly what was asked for.
        size: WIDTHxHEIGHT of the finished video: what the model has nearest to what was asked for.
        error: Also of a cancelled job, for which this API has no state of its own.
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: VideoStatus
    progress: int
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    prompt: str
    seconds: str
    size: str
    error: OpenAIErrorView | None = None
    remixed_from_video_id: str | None = None


class OpenAIVideoListView(View):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[OpenAIVideoView]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class OpenAIVideoDeletedView(View):
    """A video is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


def video_of(job: JobView) -> OpenAIVideoView:
    """A job in the dialect."""
    done = job.status is JobStatus.COMPLETED and job.finished_at is not None
    return OpenAIVideoView(
        id=job.id,
        model=job.input.preset,
        status=_STATUS[job.status],
        progress=job.progress.percent,
        created_at=int(job.created_at.timestamp()),
        completed_at=int(job.finished_at.timestamp()) if done and job.finished_at else None,
        expires_at=None if job.expires_at is None else int(job.expires_at.timestamp()),
        prompt=job.input.prompt,
        seconds=f"{job.plan.duration_seconds:g}",
        size=f"{job.plan.width}x{job.plan.height}",
        error=_error_of(job),
    )


def _error_of(job: JobView) -> OpenAIErrorView | None:
    if job.status is JobStatus.CANCELLED:
        return OpenAIErrorView(code="cancelled", message="The job was cancelled.")
    if job.error is None:
        return None
    return OpenAIErrorView(code=job.error.code, message=job.error.detail)


class OpenAIProblemView(ProblemView):
    """A problem document that also has the member the client looks for."""

    error: OpenAIErrorView


def problem_in_dialect(problem: ApiProblem, request_id: str | None) -> JSONResponse:
    """A problem as the answer to the official client."""
    errors = [
        FieldError(pointer=_their(each.pointer), detail=each.detail) for each in problem.errors
    ]
    told = replace(problem, errors=errors)
    return problem_response(told, request_id, {"error": _error_in_dialect(told).model_dump()})


def _error_in_dialect(problem: ApiProblem) -> OpenAIErrorView:
    reasons = [each.detail for each in problem.errors] or [problem.detail]
    names = [each.pointer.rpartition("/")[2] for each in problem.errors]
    return OpenAIErrorView(
        code=problem.code,
        message=" ".join(reasons),
        type=f"{problem.code}_error",
        param=names[0].removeprefix("#") or None if names else None,
    )


def documented_in_dialect(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As `documented`, with the member `error`."""
    answers = documented(*statuses)
    for answer in answers.values():
        (content,) = answer["content"].values()
        content["schema"] = {"$ref": f"#/components/schemas/{OpenAIProblemView.__name__}"}
        for code, example in content["examples"].items():
            problem = ApiProblem(code, example["value"]["detail"])
            example["value"]["error"] = _error_in_dialect(problem).model_dump()
    return answers


def _their(pointer: str) -> str:
    """A pointer to the field as the client called it."""
    name = pointer.removeprefix("#/")
    return f"#/{_THEIR_NAMES[name]}" if name in _THEIR_NAMES else pointer


async def read_creation(request: Request) -> Submission:
    """Read and check the body of a creation: the official client's form, or the same as JSON.

    Fields of `JobRequest` that this dialect has no word for are taken as well (`extra_body`).

    Raises:
        ApiProblem: Says what is wrong with it.
    """
    key = idempotency_key(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        fields = await _json_object(request)
        image = _from_reference(fields.pop("input_reference", None))
        return checked(Submission(_checked(fields, JobRequest.model_validate), image, key))
    if media_type != "multipart/form-data":
        known = "multipart/form-data or application/json"
        raise ApiProblem("unsupported_media_type", f"Send the video's request as {known}.")
    async with form_of(request, "input_reference", MAX_FORM_BYTES) as form:
        file = form.get("input_reference")
        isfile = isinstance(file, UploadFile)
        image = await picture_of(file) if isfile else _from_reference(file or None)
        fields = {name: value for name, value in form.items() if name != "input_reference"}
        request_fields = _checked(fields, from_texts)
        return checked(Submission(request_fields, image, key))


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        fields = await request.json()
    except ValueError:
        raise ApiProblem("malformed_body", "The JSON is not well-formed.") from None
    if not isinstance(fields, dict):
        raise ApiProblem("malformed_body", "Send a JSON object.")
    return fields


def _checked(
    fields: dict[str, Any], validate: Callable[[dict[str, Any]], JobRequest]
) -> JobRequest:
    """The request."""
    ours = {_OUR_NAMES.get(name, name): value for name, value in fields.items()}
    if isinstance(ours.get("seconds"), str) and validate == JobRequest.model_validate:
        # In this API a length is a text, in JSON too.
        ours["seconds"] = _number(ours["seconds"])
    try:
        return validate(ours)
    except ValidationError as error:
        raise invalid_fields(error) from None


def _number(text: str) -> float | str:
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


def _from_reference(reference: Any) -> bytes | None:
    """The picture in a `data:` URL; others are not fetched, as that would be done for anybody."""
    if reference is None:
        return None
    url = reference.get("image_url") if isinstance(reference, dict) else reference
    if not isinstance(url, str) or not url.startswith(_DATA_URL) or ";base64," not in url:
        raise image_problem("Send a picture, as a file or as a data: URL in base64.")
    try:
        return base64.b64decode(url.partition(";base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise image_problem("The data: URL must hold base64.") from None


def creation_body_schema() -> dict[str, Any]:
    """The OpenAPI description of the body of a creation."""
    fields = JobRequest.model_json_schema()["properties"]
    ours = {_THEIR_NAMES.get(name, name): schema for name, schema in fields.items()}
    url = {"type": "object", "properties": {"image_url": {"type": "string"}}}
    schemas = {
        "multipart/form-data": {
            **ours,
            "input_reference": {"type": "string", "format": "binary"},
        },
        "application/json": {
            **ours,
            "input_reference": {"description": "The picture as a data: URL.", **url},
        },
    }
    closed = {"type": "object", "required": ["prompt"], "additionalProperties": False}
    content = {name: {"schema": {**closed, "properties": found}} for name, found in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


DIALECTS["/v1/"] = problem_in_dialect
