"""The body of `POST /jobs`, in the two forms it may have, as a request and the picture's bytes.

* ``multipart/form-data``: a file `image`, and either one field `request` with JSON or plain fields.
* ``application/json``: the request's fields and `image` in base64.

Without `image` the video is made from the prompt alone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.api.errors import ApiProblem, invalid_field, invalid_fields
from service.api.images import MAX_IMAGE_BYTES
from service.contract.job import JobRequest

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
MAX_FIELDS = 32
MAX_FIELD_BYTES = 64 * 1024
MAX_FORM_BYTES = MAX_IMAGE_BYTES + 128 * 1024
MAX_JSON_BYTES = 4 * ((MAX_IMAGE_BYTES + 2) // 3) + 128 * 1024


@dataclass(frozen=True)
class Submission:
    """What a client sent, its fields valid, its picture not looked at yet."""

    request: JobRequest
    image: bytes | None
    idempotency_key: str | None = None


class JsonSubmission(JobRequest):
    """The body as JSON."""

    image: Annotated[
        str | None,
        Field(description="The picture (PNG, JPEG or WebP) in base64; without: text-to-video."),
    ] = None


async def read_submission(request: Request) -> Submission:
    """Read and check the body.

    Raises:
        ApiProblem: Says what is wrong with it.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    reader = _READERS.get(media_type)
    if reader is None:
        known = " or ".join(_READERS)
        raise ApiProblem("unsupported_media_type", f"Send the job as {known}.")
    key = idempotency_key(request)
    return checked(replace(await reader(request), idempotency_key=key))


def checked(submission: Submission) -> Submission:
    """A submission that says something, and whose picture may be looked at. Raises ApiProblem."""
    later = enumerate(submission.request.later_prompts)
    prompts = {f"later_prompts/{number}/prompt": each.prompt for number, each in later}
    for pointer, prompt in {"prompt": submission.request.prompt, **prompts}.items():
        if not prompt.strip():
            raise invalid_field(pointer, "Must say something; there are only spaces.")
    if len(submission.image or b"") > MAX_IMAGE_BYTES:
        detail = f"The picture must not be larger than {MAX_IMAGE_BYTES} bytes."
        raise ApiProblem("body_too_large", detail)
    return submission


def idempotency_key(request: Request) -> str | None:
    """The key of a request, if it sent one. Raises ApiProblem."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        detail = "Send 1 to 255 visible ASCII characters, such as a UUID."
        raise ApiProblem("invalid_idempotency_key", detail)
    return key


async def _read_json(request: Request) -> Submission:
    body = await request.body()
    return await run_in_threadpool(_from_json, body)


def _from_json(body: bytes) -> Submission:
    try:
        parsed = JsonSubmission.model_validate_json(body)
        image = None if parsed.image is None else base64.b64decode(parsed.image, validate=True)
    except ValidationError as error:
        raise invalid_fields(error) from None
    except (binascii.Error, ValueError):
        raise image_problem("Must be base64.") from None
    return Submission(JobRequest(**parsed.model_dump(exclude={"image"})), image)


def require_utf8(request: Request) -> None:
    """Nobody but us chooses which of Python's codecs reads a form. Raises ApiProblem."""
    _, parameters = parse_options_header(request.headers.get("content-type"))
    charset = parameters.get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8"):
        raise ApiProblem("unsupported_media_type", "Send the form in UTF-8.")


@asynccontextmanager
async def form_of(request: Request, picture: str, most_bytes: int) -> AsyncIterator[FormData]:
    """A form in UTF-8 with at most one file, the picture. Raises ApiProblem.

    Args:
        request: What was sent.
        picture: The file's field.
        most_bytes: The most that another field may hold.
    """
    require_utf8(request)
    opened = request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=most_bytes)
    try:
        form = await opened
    except HTTPException:
        detail = (
            f"Send a well-formed form of at most {MAX_FIELDS} fields and one file, a field of at "
            f"most {most_bytes} bytes."
        )
        raise ApiProblem("malformed_body", detail) from None
    try:
        for name, value in form.items():
            if name != picture and isinstance(value, UploadFile):
                raise invalid_field(name, f"A file goes into the field {picture}.")
        yield form
    finally:
        await form.close()


async def _read_form(request: Request) -> Submission:
    async with form_of(request, "image", MAX_FIELD_BYTES) as form:
        return Submission(_request_of(form), await picture_of(form.get("image")))


async def picture_of(part: UploadFile | str | None) -> bytes | None:
    """The picture of a form's part, None where there is none. Raises ApiProblem."""
    if isinstance(part, str) and part:
        raise image_problem("Send the picture as a file.")
    if not isinstance(part, UploadFile) or not (part.filename or part.size):
        return None  # browsers send a file without name and content where none was chosen
    return await part.read()


def _request_of(form: FormData) -> JobRequest:
    # An empty field of an HTML form means that nothing was chosen.
    fields = {name: value for name, value in form.items() if name != "image" and value != ""}
    try:
        if set(fields) == {"request"}:
            return JobRequest.model_validate_json(str(fields["request"]))
        return from_texts(fields)
    except ValidationError as error:
        raise invalid_fields(error) from None


def from_texts(fields: Mapping[str, Any]) -> JobRequest:
    """A request whose values are all texts, as a form's are. Raises ValidationError, ApiProblem."""
    request = JobRequest.model_validate_strings(fields)
    for name, text in fields.items():
        # Python writes 1_000 too, and the validation takes it.
        if "_" in text and isinstance(getattr(request, name), int | float):
            raise invalid_field(name, "Must be a number in decimal digits.")
    return request


def image_problem(detail: str) -> ApiProblem:
    """The problem of a submission whose picture is missing or not one."""
    return invalid_field("image", detail)


_READERS: dict[str, Callable[[Request], Awaitable[Submission]]] = {
    "multipart/form-data": _read_form,
    "application/json": _read_json,
}


def request_body_schema() -> dict[str, Any]:
    """The OpenAPI description of the body, which FastAPI cannot derive from two readers."""
    fields = JobRequest.model_json_schema()
    whole = {"type": "string", "contentMediaType": "application/json"}
    file = {"type": "string", "format": "binary"}
    form = {
        "title": "FormSubmission",
        "type": "object",
        "description": "Either plain fields or the one field `request` with the same as JSON.",
        "properties": {"image": file, "request": whole, **fields["properties"]},
        "anyOf": [{"required": ["prompt"]}, {"required": ["request"]}],
        "additionalProperties": False,
    }
    example = {"prompt": "The girl dances gracefully.", "seconds": 5, "image": "iVBORw0KGgo="}
    json_body = {"schema": JsonSubmission.model_json_schema(), "example": example}
    content = {"multipart/form-data": {"schema": form}, "application/json": json_body}
    return {"requestBody": {"required": True, "content": content}}
