"""Reading, cancelling and fetching a job through its whole life."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from redis import Redis

from service.contract.errors import Problem
from service.contract.job import Lane
from service.contract.record import WorkerIdentity
from service.contract.views import JobView, ProblemView, VideoLink
from tests.support.lanes import INIT, HandWorker

Submit = Callable[..., dict[str, Any]]


def read(http: httpx.Client, job: dict[str, Any]) -> JobView:
    answer = http.get(f"/jobs/{job['id']}")
    assert answer.status_code == 200, answer.text
    return JobView.model_validate_json(answer.content)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, ProblemView.model_validate_json(answer.content).code


def test_a_job_is_shown_from_queue_to_video(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit(seconds="2.4")  # two sections
    assert read(http, job).progress.percent == 0

    worker.run(Lane.RENDER)
    task = worker.claim(Lane.RENDER)
    worker.record.report_step(task, 4, 16)
    running = read(http, job)
    assert (running.status, running.queue_position) == ("running", None)
    assert running.started_at is not None
    assert (running.progress.section, running.progress.step) == (0, 4)
    assert running.progress.percent == 5  # a quarter of one of five parts
    assert running.eta_seconds is not None

    worker.commit(task)
    clip = worker.run(Lane.DELIVER)
    delivered = read(http, job)
    (shown,) = delivered.clips
    assert (shown.section, shown.first_frame, shown.num_frames) == (0, 0, 36)
    assert (shown.sha256, shown.init_bytes) == (clip.sha256, len(INIT))
    assert httpx.get(shown.url).content == worker.storage.get(clip.key)
    assert delivered.links.video is None

    worker.run(Lane.RENDER)
    video = worker.run(Lane.DELIVER, 2)
    done = read(http, job)
    assert (done.status, done.progress.percent, done.eta_seconds) == ("completed", 100, None)
    assert done.finished_at is not None
    assert done.finished_at >= running.started_at
    assert done.video is not None
    assert (done.video.sha256, done.video.num_frames) == (video.sha256, 73)
    assert (done.links.cancel, done.links.video) == (None, f"{done.links.self}/video")
    assert len(done.clips) == 2


def test_an_unchanged_job_is_not_sent_again(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    url = submit()["links"]["self"]
    first = http.get(url)
    tag = first.headers["etag"]
    again = http.get(url, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for known in ("*", tag.removeprefix("W/")):
        assert http.get(url, headers={"If-None-Match": known}).status_code == 304
    for other in ("", '"other"', tag[:-2]):
        assert http.get(url, headers={"If-None-Match": other}).status_code == 200
    worker.run(Lane.RENDER)
    changed = http.get(url, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert "retry-after" in changed.headers


def test_a_waiting_job_is_cancelled_at_once(http: httpx.Client, submit: Submit) -> None:
    job = submit()
    answer = http.post(job["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert code_of(http.post(f"/jobs/{job['id']}/cancel")) == (409, "job_finished")
    assert code_of(http.get(f"/jobs/{job['id']}/video")) == (409, "no_video")


def test_a_paused_job_rests_between_sections_and_goes_on(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit(seconds="2.4")
    worker.run(Lane.RENDER)  # encodes
    task = worker.claim(Lane.RENDER)
    for _ in range(2):
        paused = http.post(job["links"]["pause"])
        assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert set(paused.json()["links"]) >= {"resume", "cancel"}
    assert paused.json()["links"]["pause"] is None
    worker.commit(task)  # what was in work is kept
    other = WorkerIdentity("another", Lane.RENDER, {"tiny": "hand-made"})
    assert worker.record.claim(other, uuid.uuid4().hex) is None

    for _ in range(2):
        resumed = http.post(paused.json()["links"]["resume"])
        assert (resumed.status_code, resumed.json()["status"]) == (200, "running")
    assert resumed.json()["links"]["resume"] is None
    worker.run(Lane.DELIVER)
    worker.run(Lane.RENDER)
    worker.run(Lane.DELIVER, 2)
    assert read(http, job).status == "completed"
    for verb in ("pause", "resume"):
        assert code_of(http.post(f"/jobs/{job['id']}/{verb}")) == (409, "job_finished")
        assert http.post(f"/jobs/{uuid.uuid4().hex}/{verb}").status_code == 404


def test_a_running_job_is_cancelling_until_its_worker_has_stopped(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit()
    task = worker.claim(Lane.RENDER)
    for _ in range(2):
        answer = http.post(job["links"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    worker.record.release(task)
    assert read(http, job).status == "cancelled"


def test_a_failed_job_carries_its_problem(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit()
    problem = Problem(code="no_space", title="The disk is full", detail="Free some space.")
    worker.record.fail(worker.claim(Lane.RENDER), problem)
    failed = read(http, job)
    assert (failed.status, failed.error) == ("failed", problem)


def test_the_video_is_a_link_that_expires(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit()
    assert code_of(http.get(f"/jobs/{job['id']}/video")) == (409, "video_not_ready")
    video = worker.run_all(1)

    moved = http.get(f"/jobs/{job['id']}/video")
    assert moved.status_code == 302
    body = httpx.get(moved.headers["location"])
    assert body.content == worker.storage.get(video.key)
    assert body.headers["content-type"] == "video/mp4"
    assert f"{job['id']}.mp4" in body.headers["content-disposition"]

    answer = http.get(f"/jobs/{job['id']}/video", headers={"Accept": "application/json"})
    link = VideoLink.model_validate_json(answer.content)
    assert (link.sha256, link.size_bytes) == (video.sha256, video.size_bytes)
    assert (link.width, link.height, link.fps, link.num_frames) == (80, 48, 30, 37)
    assert httpx.get(link.url).content == body.content


@pytest.mark.parametrize("job_id", ["7aec6cab" * 4, "x", "0" * 31, "0" * 33, "A" * 32, "..%2f"])
def test_unknown_ids_are_not_found(http: httpx.Client, job_id: str) -> None:
    for path in ("", "/events", "/video"):
        assert http.get(f"/jobs/{job_id}{path}").status_code == 404
    assert http.post(f"/jobs/{job_id}/cancel").status_code == 404


def test_an_expired_job_is_not_found(http: httpx.Client, submit: Submit, redis: Redis) -> None:
    job = submit()
    redis.delete(f"framepack:job:{job['id']}")
    assert code_of(http.get(f"/jobs/{job['id']}")) == (404, "job_not_found")
