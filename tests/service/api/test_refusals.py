"""Requests that are refused: the right status, a stable code, pointers, and never an echo."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api.errors import PROBLEMS
from service.api.images import MAX_IMAGE_BYTES
from service.api.submission import MAX_FIELD_BYTES, MAX_FORM_BYTES, MAX_JSON_BYTES
from service.contract.views import ProblemView

MARK = "xyzzy-secret"


def problem(answer: httpx.Response, status: int, code: str) -> ProblemView:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert MARK not in answer.text
    assert MARK not in str(answer.headers)
    view = ProblemView.model_validate_json(answer.content)
    assert (view.status, view.code) == (status, code)
    assert view.request_id == answer.headers["x-request-id"]
    return view


@pytest.fixture
def nothing_is_stored(redis: Redis) -> Iterator[None]:
    yield
    assert redis.keys("framepack:job:*") == []


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "#/prompt", "at least 1 character."),
    ({"prompt": " \n\u3000"}, "#/prompt", "only spaces"),
    (
        {"later_prompts": [{"seconds": 1, "prompt": "x"}, {"seconds": 2, "prompt": " "}]},
        "#/later_prompts/1/prompt",
        "only spaces",
    ),
    ({"prompt": "x" * 2001}, "#/prompt", "at most 2000 characters."),
    ({"prompt": f"{MARK}\u0000"}, "#/prompt", "control characters"),
    ({"prompt": 7}, "#/prompt", "string"),
    ({"seconds": True}, "#/seconds", "number"),
    ({"seconds": "5"}, "#/seconds", "number"),
    ({"seconds": 121}, "#/seconds", "120"),
    ({"steps": 0}, "#/steps", "1"),
    ({"steps": 1.5}, "#/steps", "integer"),
    ({"seed": -1}, "#/seed", "0"),
    ({"seed": 2**32}, "#/seed", "4294967295"),
    ({"cfg_scale": 0.5}, "#/cfg_scale", "1"),
    ({"order": MARK}, "#/order", "inverted"),
    ({"preset": MARK}, "#/preset", "tiny"),
    ({"preset": "framepack-i2v"}, "#/preset", "tiny"),
    ({"schedule": f"td_f16k4{MARK}"}, "#/schedule", "at character 9"),
    ({"schedule": "td_f16k4f2k2f1k1_g5"}, "#/schedule", "g9"),
    ({"no_such_field": MARK}, "#/no_such_field", "no such field"),
    ({f"{MARK} ~": 1}, "#", "no such field"),
    ({"image": "not base64!"}, "#/image", "base64"),
    ({"image": base64.b64encode(MARK.encode()).decode()}, "#/image", "not a PNG"),
    ({"image": 7}, "#/image", "string"),
    ({"image": None, "order": "inverted"}, "#/order", "give an image, or choose one of: forward"),
    ({"size": "huge"}, "#/size", "such as 832x480"),
    ({"metadata": {f"key{n}": "x" for n in range(17)}}, "#/metadata", "at most 16 entries."),
    ({"metadata": {MARK + " ~": "x"}}, "#/metadata", "pattern"),
    ({"metadata": {"": "x"}}, "#/metadata", "pattern"),
    ({"metadata": {"key": 7}}, "#/metadata/key", "string"),
    ({"metadata": {"key": "x" * 513}}, "#/metadata/key", "at most 512 characters."),
    ({"metadata": {"key": f"{MARK}\u0000"}}, "#/metadata/key", "control characters"),
    ({"metadata": MARK}, "#/metadata", "JSON object"),
]


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(("fields", "pointer", "reason"), BAD_FIELDS)
def test_a_bad_field_is_named(
    http: httpx.Client, picture: bytes, fields: dict[str, Any], pointer: str, reason: str
) -> None:
    body = {"prompt": MARK, "image": base64.b64encode(picture).decode(), **fields}
    view = problem(http.post("/jobs", json=body), 422, "invalid_request")
    assert view.errors is not None
    assert [error.pointer for error in view.errors] == [pointer]
    assert reason in view.errors[0].detail


def test_all_bad_fields_are_named_at_once(http: httpx.Client, picture: bytes) -> None:
    form = {"steps": "many", "seconds": MARK}
    answer = http.post("/jobs", data=form, files={"image": ("a", picture)})
    view = problem(answer, 422, "invalid_request")
    assert view.errors is not None
    assert {error.pointer for error in view.errors} == {"#/prompt", "#/steps", "#/seconds"}


def test_a_number_of_a_form_is_decimal_digits(http: httpx.Client, picture: bytes) -> None:
    for name in ("seconds", "steps", "seed"):
        form = {"prompt": "under_scored", name: "1_0"}
        answer = http.post("/jobs", data=form, files={"image": ("a", picture)})
        view = problem(answer, 422, "invalid_request")
        assert view.errors is not None
        (error,) = view.errors
        assert (error.pointer, "decimal digits" in error.detail) == (f"#/{name}", True)


def test_a_picture_in_another_field_is_told_its_own(http: httpx.Client, picture: bytes) -> None:
    for path, own in (("/jobs", "image"), ("/v1/videos", "input_reference")):
        answer = http.post(path, data={"prompt": "x"}, files={"photo": ("a.jpg", picture)})
        view = problem(answer, 422, "invalid_request")
        assert view.errors is not None
        (error,) = view.errors
        assert (error.pointer, own in error.detail) == ("#/photo", True)


def test_a_form_that_cannot_be_read_says_what_can(http: httpx.Client, picture: bytes) -> None:
    two = [("image", ("a.jpg", picture)), ("image", ("b.jpg", picture))]
    view = problem(http.post("/jobs", data={"prompt": "x"}, files=two), 400, "malformed_body")
    assert "one file" in view.detail


MALFORMED = [
    b"",
    b"{",
    b"\xff\xfe",
    b'{"prompt": "\\ud800"}',
    b'{"a":' * 100_000,
]


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_json_is_no_internal_error(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed_body")


def test_lone_surrogates_do_no_harm_wherever_they_come(http: httpx.Client) -> None:
    lone = b'"\\udc80 ' + MARK.encode() + b'"'
    for body in (b"[" + lone + b"]", b"{" + lone + b": 1}", lone):
        answer = http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert MARK not in answer.text


def test_json_that_is_no_object_is_refused(http: httpx.Client) -> None:
    view = problem(http.post("/jobs", json=[MARK]), 422, "invalid_request")
    assert view.errors is not None
    assert view.errors[0].pointer == "#"


FIELDS = (b"prompt", b"image")


def test_a_picture_that_is_no_file_is_refused(http: httpx.Client) -> None:
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n' % name for name in FIELDS
    ]
    boundary = b"".join(parts) + b"--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    view = problem(http.post("/jobs", content=boundary, headers=headers), 422, "invalid_request")
    assert view.errors is not None
    assert view.errors[0].pointer == "#/image"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=b"])
def test_a_broken_form_is_refused(http: httpx.Client, content_type: str) -> None:
    answer = http.post("/jobs", content=b"nonsense", headers={"Content-Type": content_type})
    assert answer.status_code in (400, 422)
    ProblemView.model_validate_json(answer.content)


def test_other_media_types_are_refused(http: httpx.Client) -> None:
    answer = http.post("/jobs", data={"prompt": MARK})
    problem(answer, 415, "unsupported_media_type")


def test_a_picture_of_ten_mebibytes_is_the_most(http: httpx.Client) -> None:
    def send(size: int) -> httpx.Response:
        return http.post("/jobs", data={"prompt": "x"}, files={"image": ("a", b"\0" * size)})

    problem(send(MAX_IMAGE_BYTES + 1), 413, "body_too_large")
    problem(send(MAX_IMAGE_BYTES), 422, "invalid_request")


def test_a_declared_body_over_the_limit_is_refused(http: httpx.Client) -> None:
    json_type = {"Content-Type": "application/json"}
    answer = http.post("/jobs", content=b" " * (MAX_JSON_BYTES + 1), headers=json_type)
    problem(answer, 413, "body_too_large")
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = http.post("/jobs", content=b" " * (MAX_FORM_BYTES + 1), headers=form)
    problem(answer, 413, "body_too_large")


def test_a_body_of_undeclared_length_is_counted(http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MAX_JSON_BYTES // 65536 + 2):
            yield b" " * 65536

    answer = http.post("/jobs", content=endless(), headers={"Content-Type": "application/json"})
    problem(answer, 413, "body_too_large")


def test_bodies_of_other_routes_are_small(http: httpx.Client) -> None:
    answer = http.post(f"/jobs/{'0' * 32}/cancel", content=b" " * (MAX_FIELD_BYTES + 1))
    problem(answer, 413, "body_too_large")


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    problem(http.get(f"/{MARK}"), 404, "not_found")
    problem(http.delete("/jobs"), 405, "method_not_allowed")


def test_a_problems_type_leads_to_its_meaning(http: httpx.Client) -> None:
    for code, kind in PROBLEMS.items():
        meaning = http.get(f"/problems/{code}")
        assert meaning.json()["title"] == kind.title
    problem(http.get("/problems/none"), 404, "not_found")


def test_a_request_id_is_taken_over_only_if_it_is_harmless(http: httpx.Client) -> None:
    answer = http.get("/healthz", headers={"X-Request-Id": "trace-1.2"})
    assert answer.headers["x-request-id"] == "trace-1.2"
    answer = http.get("/healthz", headers={"X-Request-Id": "a b<script>"})
    assert "script" not in answer.headers["x-request-id"]


def test_an_unexpected_error_is_a_problem_without_its_message(
    http: httpx.Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    # Somebody broke the record: the text of the error must not come out.
    redis.hset(f"framepack:job:{'0' * 32}", mapping={"spec": json.dumps({"tenant": MARK})})
    problem(http.get(f"/jobs/{'0' * 32}"), 500, "internal_error")
    assert "unexpected error" in caplog.text
