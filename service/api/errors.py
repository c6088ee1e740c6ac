"""Every way a request can fail, as problem documents (RFC 9457). The only place that makes them.

A problem's `code` is stable and listed in `PROBLEMS`; its `type` is a relative URI that answers
with the same text (`/problems/{code}`). Nothing a user sent is ever echoed: prompts do not belong
in logs, and a lone surrogate in an echo would turn a 422 into a 500.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import takewhile
from typing import Any

import redis.exceptions
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from framepack.errors import InvalidRequest, ScheduleSyntaxError
from service.api.durability import UnsafeRedis
from service.api.images import DecodersBusy, ImageRefused
from service.api.quota import quota_headers
from service.contract.endpoints import MOST_ENDPOINTS, EndpointNotFound, TooManyEndpoints
from service.contract.errors import (
    IdempotencyMismatch,
    JobConflict,
    JobExpired,
    JobFinished,
    JobNotFound,
    StorageError,
    UploadTooSlow,
)
from service.contract.limits import QuotaExceeded
from service.contract.views import FieldError, ProblemView

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True)
class ProblemKind:
    """What all occurrences of a code share."""

    status: int
    title: str
    retryable: bool = False


PROBLEMS: dict[str, ProblemKind] = {
    "malformed_body": ProblemKind(400, "The body cannot be read"),
    "invalid_event_id": ProblemKind(400, "Last-Event-ID is not an event's id"),
    "invalid_idempotency_key": ProblemKind(400, "The Idempotency-Key cannot be used"),
    "unauthenticated": ProblemKind(401, "An API key is needed"),
    "missing_scope": ProblemKind(403, "The API key may not be used for this"),
    "invalid_token": ProblemKind(401, "The token is not valid or has ended"),
    "invalid_signature": ProblemKind(403, "The link is not valid or has expired"),
    "not_found": ProblemKind(404, "There is nothing here"),
    "webhook_not_found": ProblemKind(404, "There is no such webhook"),
    "delivery_not_found": ProblemKind(404, "There is no such delivery"),
    "job_not_found": ProblemKind(404, "There is no such job"),
    "no_manifest": ProblemKind(404, "The video has no manifest"),
    "no_preview": ProblemKind(404, "There is no preview now", retryable=True),
    "no_clip": ProblemKind(404, "The section has no clip (yet)", retryable=True),
    "method_not_allowed": ProblemKind(405, "This cannot be done to this resource"),
    "body_too_slow": ProblemKind(408, "The body took too long", retryable=True),
    "job_finished": ProblemKind(409, "The job has already ended"),
    "job_conflict": ProblemKind(409, "The job is in a state in which this cannot be done"),
    "too_many_webhooks": ProblemKind(409, "The tenant has as many webhooks as it may"),
    "video_not_ready": ProblemKind(409, "The video is not finished", retryable=True),
    "no_video": ProblemKind(409, "The job ended without a video"),
    "job_expired": ProblemKind(410, "The job is kept no longer"),
    "body_too_large": ProblemKind(413, "The body is too large"),
    "unsupported_media_type": ProblemKind(415, "The body's media type is not supported"),
    "range_not_satisfiable": ProblemKind(416, "The range lies outside the file"),
    "invalid_request": ProblemKind(422, "The request has invalid fields"),
    "idempotency_mismatch": ProblemKind(422, "The Idempotency-Key came with another request"),
    "quota_exceeded": ProblemKind(429, "A limit of the tenant is reached", retryable=True),
    "internal_error": ProblemKind(500, "The service made a mistake", retryable=True),
    "full": ProblemKind(503, "The service holds as many jobs as it may", retryable=True),
    "busy": ProblemKind(503, "The service is busy", retryable=True),
    "tokens_unavailable": ProblemKind(503, "The service signs no tokens"),
    "record_unsafe": ProblemKind(503, "The job record may lose jobs, so none are accepted"),
    "record_unavailable": ProblemKind(503, "The job record cannot be reached", retryable=True),
    "storage_unavailable": ProblemKind(503, "The storage cannot be reached", retryable=True),
}


@dataclass
class ApiProblem(Exception):  # noqa: N818 - a problem is what it is called everywhere
    """A request that ends in a problem document.

    Attributes:
        code: Key of `PROBLEMS`.
        detail: One sentence about this occurrence and the way out; never echoes input.
        errors: For invalid requests, which fields are wrong and why.
    """

    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of problem answers with these statuses, and of those that all give.

    Whatever is asked, a body that comes with it may be too large; where a key is needed it may also
    be one that lacks the scope.
    """
    schema = {"$ref": "#/components/schemas/ProblemView"}
    answers: dict[int | str, dict[str, Any]] = {}
    scoped = {403} if 401 in statuses else set()
    for status in sorted({*statuses, *scoped, 413}):
        kinds = {code: kind for code, kind in PROBLEMS.items() if kind.status == status}
        examples = {
            code: {"value": problem_view(ApiProblem(code, f"{kind.title}."), None).model_dump()}
            for code, kind in kinds.items()
        }
        answers[status] = {
            "description": "; ".join(f"{kind.title} (`{code}`)" for code, kind in kinds.items()),
            "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
        }
    return answers


def problem_view(problem: ApiProblem, request_id: str | None) -> ProblemView:
    """The document's fields."""
    kind = PROBLEMS[problem.code]
    return ProblemView(
        type=f"/problems/{problem.code}",
        title=kind.title,
        status=kind.status,
        detail=problem.detail,
        code=problem.code,
        retryable=kind.retryable,
        request_id=request_id,
        errors=list(problem.errors) or None,
    )


def problem_response(
    problem: ApiProblem, request_id: str | None, members: Mapping[str, Any] | None = None
) -> JSONResponse:
    """The document with its status, more members, and Retry-After where it makes sense."""
    view = problem_view(problem, request_id)
    headers = dict(problem.headers)
    if view.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    body = {**view.model_dump(mode="json", exclude_none=True), **(members or {})}
    return JSONResponse(body, view.status, headers, media_type=MEDIA_TYPE)


Speaker = Callable[[ApiProblem, str | None], JSONResponse]

DIALECTS: dict[str, Speaker] = {}
"""Who words the problems of paths that begin so; all others are worded here."""


def answer_for(scope: Scope, problem: ApiProblem) -> JSONResponse:
    """A problem as the answer to a request, in the words that its path's clients understand."""
    speakers = (speak for start, speak in DIALECTS.items() if scope["path"].startswith(start))
    speak = next(speakers, problem_response)
    return speak(problem, scope.get("request_id"))


def invalid_fields(error: ValidationError | RequestValidationError) -> ApiProblem:
    """A validation error as pointers and reasons, without the values."""
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return ApiProblem("malformed_body", "The JSON is not well-formed.")
    errors = [FieldError(pointer=_pointer(item["loc"]), detail=_reason(item)) for item in found]
    return ApiProblem("invalid_request", "See errors for the fields and the reasons.", errors)


def invalid_field(name: str, detail: str) -> ApiProblem:
    """One field that is wrong, and why; a field's field has its path, `webhook/url`."""
    error = FieldError(pointer=_pointer(name.split("/")), detail=detail)
    return ApiProblem("invalid_request", "See errors for the fields and the reasons.", [error])


def _pointer(location: Sequence[int | str]) -> str:
    """A JSON pointer, up to a name that could not be one of ours: that is input."""
    parts = [str(part) for part in location if part != "body"]
    ours = takewhile(re.compile(r"[A-Za-z0-9_]{1,64}").fullmatch, parts)
    return "".join(["#", *(f"/{part}" for part in ours)])


_PARTS_OF_TEXT = ("character", "characters")
_PARTS_OF_LISTS = ("entry", "entries")


def _reason(item: Mapping[str, Any]) -> str:
    """Why a field is refused. The messages of the types used here name limits, never values."""
    if item["type"] == "extra_forbidden":
        return "There is no such field."
    if item["type"] in ("too_long", "too_short"):
        # The library speaks of items, whatever they are.
        most = item["type"] == "too_long"
        count = item["ctx"]["max_length" if most else "min_length"]
        one, many = _PARTS_OF_TEXT if isinstance(item["input"], str) else _PARTS_OF_LISTS
        limit = f"at {'most' if most else 'least'} {count} {one if count == 1 else many}"
        return f"Must have {limit}."
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[:1].upper() + message[1:] + "."


def _invalid_choice(error: InvalidRequest) -> ApiProblem:
    detail = error.detail
    if isinstance(error, ScheduleSyntaxError):
        detail = f"at character {error.position + 1}: expected {error.expected}"
    # It may be a field's field: webhook/url.
    pointer = FieldError(pointer=f"#/{error.field}", detail=detail)
    return ApiProblem("invalid_request", "See errors for the fields and the reasons.", [pointer])


def _refused_image(error: ImageRefused) -> ApiProblem:
    return invalid_field("image", str(error))


_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def _from_status(error: HTTPException) -> ApiProblem:
    code = _BY_STATUS.get(error.status_code, "malformed_body")
    return ApiProblem(code, PROBLEMS[code].title + ".", headers=error.headers or {})


def _from_redis(error: redis.exceptions.RedisError) -> ApiProblem:
    # A refusal to write (full disk, loading, no replicas) is the server's state; any other answer
    # that is an error is a mistake of ours.
    away = (
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.OutOfMemoryError,
        redis.exceptions.ReadOnlyError,
    )
    refusals = ("MISCONF", "NOREPLICAS", "LOADING", "OOM")
    if isinstance(error, away) or str(error).startswith(refusals):
        log.warning("the job record is unavailable: %s", type(error).__name__)
        return ApiProblem("record_unavailable", "Nothing was confirmed; try again shortly.")
    return _unexpected(error)


def _unsafe(error: UnsafeRedis) -> ApiProblem:
    log.error("%s", error)
    return ApiProblem("record_unsafe", "The operator finds the reason in the log.")


_WAYS_OUT = {
    "submissions": "Submit more slowly.",
    "jobs": "Wait until one of your jobs has ended, or cancel one.",
    "gpu-seconds": "Wait until more of your jobs' work is done, or ask for less.",
}


def _quota_problem(error: QuotaExceeded) -> ApiProblem:
    name = error.quota.refused or ""
    limit = next(policy.limit for policy in error.quota.policies if policy.name == name)
    detail = f"The limit of {name} is {limit}. {_WAYS_OUT[name]}"
    return ApiProblem("quota_exceeded", detail, headers=quota_headers(error.quota))


def _from_storage(error: StorageError) -> ApiProblem:
    log.warning("the storage is unavailable: %s", error)
    return ApiProblem("storage_unavailable", "Nothing was accepted; try again shortly.")


def _unexpected(error: Exception) -> ApiProblem:
    log.error("unexpected error", exc_info=error)
    return ApiProblem("internal_error", "The error was logged under this request's id.")


_TRANSLATIONS: dict[type[Exception], Callable[[Any], ApiProblem]] = {
    ApiProblem: lambda problem: problem,
    HTTPException: _from_status,
    RequestValidationError: invalid_fields,
    InvalidRequest: _invalid_choice,
    ImageRefused: _refused_image,
    DecodersBusy: lambda _: ApiProblem("busy", "Too many pictures are being decoded."),
    JobNotFound: lambda _: ApiProblem("job_not_found", "No job of yours has this id."),
    JobExpired: lambda _: ApiProblem(
        "job_expired", "It ended and its time was over; retention_seconds makes that longer."
    ),
    UploadTooSlow: lambda _: ApiProblem("busy", "Storing the picture took too long; try again."),
    JobFinished: lambda error: ApiProblem("job_finished", f"The job is {error.status}."),
    JobConflict: lambda _: ApiProblem("job_conflict", "Read the job for its present state."),
    IdempotencyMismatch: lambda _: ApiProblem(
        "idempotency_mismatch", "Send the same request with this key, or another key."
    ),
    QuotaExceeded: _quota_problem,
    EndpointNotFound: lambda _: ApiProblem("webhook_not_found", "No webhook of yours has this id."),
    TooManyEndpoints: lambda _: ApiProblem(
        "too_many_webhooks", f"There are {MOST_ENDPOINTS} already; remove one first."
    ),
    StorageError: _from_storage,
    UnsafeRedis: _unsafe,
    redis.exceptions.RedisError: _from_redis,
}


def unexpected_response(error: Exception, scope: Scope) -> JSONResponse:
    """The answer to an error nobody expected; its traceback goes to the log."""
    return answer_for(scope, _unexpected(error))


def install(app: FastAPI) -> None:
    """Make every expected error of the application a problem document."""
    for kind, translate in _TRANSLATIONS.items():
        app.add_exception_handler(kind, _handler(translate))


def _handler(translate: Callable[[Any], ApiProblem]) -> Callable[[Request, Any], Any]:
    async def handle(request: Request, error: Any) -> Response:
        return answer_for(request.scope, translate(error))

    return handle
