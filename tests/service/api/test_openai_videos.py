"""`/v1/videos`, asked by the official `openai` package."""

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from service.contract.errors import Problem
from service.contract.job import Lane
from tests.support.lanes import HandWorker

# OpenAI ended its own service; the dialect lives on in others, and the client still speaks it.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def client(gateway: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key="any, for the service is open", max_retries=0
    ) as client:
        yield client


def create(client: openai.OpenAI, picture: bytes, **fields: Any) -> Any:
    given: dict[str, Any] = {"model": "tiny", "extra_body": {"seed": 3, "seconds": "1"}, **fields}
    reference = ("photo.jpg", picture, "image/jpeg")
    return client.videos.create(prompt="The girl dances.", input_reference=reference, **given)


def test_a_video_from_creation_to_content(
    client: openai.OpenAI, worker: HandWorker, picture: bytes
) -> None:
    video = create(client, picture, size="1280x720")
    assert (video.object, video.status, video.model) == ("video", "queued", "tiny")
    width, _, height = video.size.partition("x")
    assert int(width) > int(height)
    assert float(video.seconds) == pytest.approx(37 / 30, abs=1e-3)
    worker.run(Lane.RENDER)
    assert client.videos.retrieve(video.id).status == "in_progress"
    worker.run(Lane.RENDER)
    finished = worker.run(Lane.DELIVER, 2)
    done = client.videos.poll(video.id, poll_interval_ms=10)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.completed_at is not None
    assert done.completed_at >= done.created_at
    content = client.videos.download_content(video.id).read()
    assert content == worker.storage.get(finished.key)


def test_a_length_is_a_text_and_our_fields_are_taken(
    client: openai.OpenAI, picture: bytes, http: Any
) -> None:
    fields: dict[str, Any] = {"seconds": "4", "extra_body": {"steps": 7, "seed": 11}}
    video = create(client, picture, **fields)
    job = http.get(f"/jobs/{video.id}").json()
    assert (job["input"]["seconds"], job["input"]["steps"], job["seed"]) == (4.0, 7, 11)


def test_a_picture_may_come_as_a_data_url(http: httpx.Client) -> None:
    # In JSON, as the API describes it; the official client itself only sends files.
    out = io.BytesIO()
    Image.new("RGB", (80, 64), "red").save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    body = {"prompt": "x", "seconds": "4", "input_reference": {"image_url": url}}
    answer = http.post("/v1/videos", json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    remote = {**body, "input_reference": {"image_url": "https://example.org/a.png"}}
    refused = http.post("/v1/videos", json=remote)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "input_reference")
    grouped = http.post("/v1/videos", json={**body, "seconds": "1_0"})
    assert (grouped.status_code, grouped.json()["error"]["param"]) == (422, "seconds")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": "sora-2"}, "model", "choose one of: tiny"),
        ({"seconds": "ten"}, "seconds", "number"),
        ({"seconds": "1_0"}, "seconds", "decimal digits"),
        ({"prompt": "  "}, "prompt", "only spaces"),
        ({"input_reference": ("a.jpg", b"no picture")}, "input_reference", "picture"),
    ],
)
def test_a_refusal_names_the_field_as_the_client_called_it(
    client: openai.OpenAI, picture: bytes, fields: dict[str, Any], param: str, says: str
) -> None:
    given = {"prompt": "x", "input_reference": ("a.jpg", picture), **fields}
    with pytest.raises(openai.UnprocessableEntityError, match=says) as refused:
        client.videos.create(**given)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    problem = refused.value.response.json()
    assert problem["errors"][0]["pointer"] == f"#/{param}"


def test_what_is_not_there_is_told_by_the_usual_exceptions(
    client: openai.OpenAI, picture: bytes
) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.videos.retrieve("0" * 32)
    assert missing.value.code == "job_not_found"
    video = create(client, picture)
    with pytest.raises(openai.ConflictError) as early:
        client.videos.download_content(video.id)
    assert early.value.code == "video_not_ready"
    with pytest.raises(openai.UnprocessableEntityError):
        client.videos.download_content(video.id, variant="thumbnail")


def test_whatever_is_refused_is_told_in_the_clients_words(
    client: openai.OpenAI, picture: bytes, http: httpx.Client
) -> None:
    video = create(client, picture)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.videos.remix(video.id, prompt="The girl sings.")
    assert (unknown.value.code, unknown.value.type) == ("not_found", "not_found_error")
    with pytest.raises(openai.UnprocessableEntityError) as variant:
        client.videos.download_content(video.id, variant="thumbnail")
    assert variant.value.param == "variant"
    answers = {
        "not_found": http.get("/v1/models"),
        "method_not_allowed": http.put(f"/v1/videos/{video.id}"),
        "body_too_large": http.post(f"/v1/videos/{video.id}", content=bytes(1 << 17)),
    }
    for code, answer in answers.items():
        assert (answer.json()["code"], answer.json()["error"]["code"]) == (code, code)
        assert answer.json()["error"]["message"]
    # Elsewhere the service speaks its own words only.
    assert "error" not in http.get("/v2/models").json()


def test_an_end_without_a_video_is_failed(
    client: openai.OpenAI, worker: HandWorker, picture: bytes, http: Any
) -> None:
    video = create(client, picture)
    problem = Problem(code="no_space", title="Full", detail="The disk is full.")
    worker.record.fail(worker.claim(Lane.RENDER), problem)
    failed = client.videos.retrieve(video.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("no_space", "The disk is full.")
    other = create(client, picture, extra_body={"seed": 4})
    http.post(f"/jobs/{other.id}/cancel")
    cancelled = client.videos.retrieve(other.id)
    assert (cancelled.status, cancelled.error and cancelled.error.code) == ("failed", "cancelled")


def test_a_video_that_ended_says_how_long_it_is_kept(
    client: openai.OpenAI, picture: bytes, http: httpx.Client
) -> None:
    video = create(client, picture, extra_body={"retention_seconds": 90})
    assert client.videos.retrieve(video.id).expires_at is None
    http.post(f"/jobs/{video.id}/cancel")
    expires = client.videos.retrieve(video.id).expires_at
    assert expires is not None
    assert 60 < expires - time.time() <= 91


def test_videos_are_listed_and_deleted(
    client: openai.OpenAI, worker: HandWorker, picture: bytes
) -> None:
    ids = [
        create(client, picture, extra_body={"seed": seed, "seconds": "1"}).id for seed in (1, 2, 3)
    ]
    page = client.videos.list(limit=2)
    assert [video.id for video in page.data] == ids[:0:-1]
    # The client goes on by itself, page after page.
    assert [video.id for video in client.videos.list(limit=2)] == ids[::-1]
    assert [video.id for video in client.videos.list(limit=1, order="asc")] == ids
    with pytest.raises(openai.ConflictError):
        client.videos.delete(ids[0])
    worker.run_all(1)
    deleted = client.videos.delete(ids[0])
    assert (deleted.id, deleted.deleted, deleted.object) == (ids[0], True, "video.deleted")
    assert [video.id for video in client.videos.list()] == ids[:0:-1]
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(ids[0])
