"""POST /jobs: the three forms of a body, and what is there when the 202 comes."""

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image
from redis import Redis

from service.contract.bells import queue_name
from service.contract.job import JobSpec, Lane
from service.contract.views import JobView

PROMPT = "The girl dances gracefully, full of charm ✨"


def as_fields(picture: bytes, **fields: Any) -> dict[str, Any]:
    return {"data": {name: str(value) for name, value in fields.items()}, "files": file(picture)}


def as_request_field(picture: bytes, **fields: Any) -> dict[str, Any]:
    return {"data": {"request": json.dumps(fields)}, "files": file(picture)}


def as_json(picture: bytes, **fields: Any) -> dict[str, Any]:
    return {"json": {**fields, "image": base64.b64encode(picture).decode()}}


def file(picture: bytes) -> dict[str, Any]:
    return {"image": ("../../photo.exe", picture, "text/html")}


BODIES = [as_fields, as_request_field, as_json]


@pytest.mark.parametrize("body", BODIES)
def test_every_form_of_a_body_is_accepted(http: httpx.Client, picture: bytes, body: Any) -> None:
    answer = http.post(
        "/jobs", **body(picture, prompt=PROMPT, seconds=5.0, steps=3, seed=7, cfg_scale=1.5)
    )
    assert answer.status_code == 202, answer.text
    job = JobView.model_validate_json(answer.content)
    assert answer.headers["location"] == job.links.self
    assert int(answer.headers["retry-after"]) > 0
    assert job.status == "queued"
    assert job.queue_position == 1
    assert (job.input.prompt, job.input.steps, job.input.cfg_scale) == (PROMPT, 3, 1.5)
    assert (job.seed, job.input.seed) == (7, 7)
    assert job.eta_seconds is None
    # 96 x 64 pixels: the bucket that is wider than high; 5 s are 4 whole sections.
    plan = job.plan
    assert (plan.width, plan.height, plan.num_sections, plan.num_frames) == (80, 48, 4, 145)
    assert http.get(job.links.self).json() == answer.json()


TEXT_ONLY: list[dict[str, Any]] = [
    {"json": {"prompt": PROMPT, "size": "80x48"}},
    {"json": {"prompt": PROMPT, "size": "80x48", "image": None}},
    {"files": {"prompt": (None, PROMPT), "size": (None, "80x48")}},
    {"files": {"prompt": (None, PROMPT), "size": (None, "80x48"), "image": ("", b"")}},
    {"files": {"request": (None, json.dumps({"prompt": PROMPT, "size": "80x48"}))}},
]
"""The last but one is what a browser's form sends where no file was chosen."""


@pytest.mark.parametrize("body", TEXT_ONLY)
def test_without_a_picture_it_is_text_to_video(
    http: httpx.Client, redis: Redis, gateway: Any, body: dict[str, Any]
) -> None:
    answer = http.post("/jobs", **body)
    assert answer.status_code == 202, answer.text
    job = JobView.model_validate_json(answer.content)
    # 5 s are 4 sections of 36 latent frames, whose first is one frame: 3 less than 4 x 36.
    plan = job.plan
    assert (plan.width, plan.height, plan.num_sections, plan.num_frames) == (80, 48, 4, 141)
    assert (plan.order, plan.schedule) == ("vanilla", "td_f16k4f2k2f1k1_g9")
    spec = JobSpec.model_validate_json(str(redis.hget(f"framepack:job:{job.id}", "spec")))
    assert (spec.image, spec.image_size) == (None, None)
    assert not list(gateway.app.state.services.storage.list(f"jobs/{job.id}/"))


def test_the_picture_is_stored_as_png_before_the_answer(
    http: httpx.Client, picture: bytes, redis: Redis, gateway: Any
) -> None:
    job = http.post("/jobs", **as_fields(picture, prompt="x")).json()
    stored = redis.hget(f"framepack:job:{job['id']}", "spec")
    assert isinstance(stored, str)
    spec = JobSpec.model_validate_json(stored)
    assert spec.image is not None
    body = gateway.app.state.services.storage.get(spec.image.key)
    assert len(body) == spec.image.size_bytes
    assert Image.open(io.BytesIO(body)).size == (96, 64)
    assert spec.image_size == (64, 96)
    assert b"photo.exe" not in stored.encode()


def test_a_bell_rings_for_the_render_lane(http: httpx.Client, picture: bytes, redis: Redis) -> None:
    http.post("/jobs", **as_fields(picture, prompt="x"))
    assert redis.llen(f"rq:queue:{queue_name(Lane.RENDER, 'tiny')}") >= 1


def test_a_seed_is_drawn_when_none_is_given(http: httpx.Client, picture: bytes) -> None:
    seeds = {http.post("/jobs", **as_fields(picture, prompt="x")).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_empty_form_fields_take_the_defaults(http: httpx.Client, picture: bytes) -> None:
    answer = http.post("/jobs", **as_fields(picture, prompt="x", steps="", seed="", order=""))
    assert answer.status_code == 202, answer.text
    assert answer.json()["input"]["steps"] is None


def test_more_work_in_a_section_costs_more(
    http: httpx.Client, picture: bytes, redis: Redis
) -> None:
    def cost(**fields: Any) -> float:
        job = http.post("/jobs", **as_fields(picture, prompt="x", **fields)).json()
        return float(str(redis.hget(f"framepack:job:{job['id']}", "cost")))

    plain = cost(steps=10)
    assert cost(steps=20) == pytest.approx(2 * plain)
    assert cost(steps=10, cfg_scale=4) == pytest.approx(2 * plain)
    assert cost(steps=10, seconds=60) == pytest.approx(plain)


METHOD = {"ranking": "hybrid", "history_noise": 0.25, "history_noise_mode": "constant"}
LATER = [{"seconds": 1.5, "prompt": "then she sits down"}]


@pytest.mark.parametrize("body", BODIES)
def test_methods_and_prompts_by_position_are_fields(
    http: httpx.Client, picture: bytes, body: Any
) -> None:
    later = json.dumps(LATER) if body is as_fields else LATER
    fields = {**METHOD, "order": "planned", "schedule": "geometric+D", "later_prompts": later}
    answer = http.post("/jobs", **body(picture, prompt=PROMPT, seconds=3.6, **fields))
    assert answer.status_code == 202, answer.text
    shown = answer.json()["input"]
    assert {name: shown[name] for name in METHOD} == METHOD
    assert shown["later_prompts"] == LATER
    assert answer.json()["plan"]["places"] == [2, 0, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ranking", "luck"),
        ("history_noise", 2),
        ("history_noise_mode", "often"),
        ("history_guidance", 0.5),
        ("later_prompts", [{"seconds": 30.0, "prompt": "x"}]),
        ("later_prompts", [{"seconds": 2.0}]),
        ("schedule", "td_f1k3h3w3_g9"),
    ],
)
def test_methods_that_cannot_be_served_are_named(
    http: httpx.Client, picture: bytes, field: str, value: Any
) -> None:
    answer = http.post("/jobs", **as_json(picture, prompt="x", order="vanilla", **{field: value}))
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"].startswith(f"#/{field}")


def test_discretised_history_needs_a_codebook_at_the_workers(
    http: httpx.Client, open_gateway: Any, redis_url: str, tmp_path: Any
) -> None:
    body: dict[str, Any] = {"json": {"prompt": "x", "schedule": "temporal_kernel+D"}}
    assert http.post("/jobs", **body).status_code == 202, "tiny's own weights have one"
    other = {"tiny": "/weights/of-somebody"}
    with open_gateway(redis_url, tmp_path, weights=other) as strict:
        answer = httpx.post(f"{strict.url}/jobs", **body)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "#/schedule"
        assert "leave out +D" in error["detail"]
        assert "codebook fit" in error["detail"]
        plain: dict[str, Any] = {"json": {"prompt": "x", "schedule": "temporal_kernel"}}
        assert httpx.post(f"{strict.url}/jobs", **plain).status_code == 202
    with open_gateway(redis_url, tmp_path, weights=other, codebooks=("tiny",)) as fitted:
        assert httpx.post(f"{fitted.url}/jobs", **body).status_code == 202
