"""The manifest behind its link, and what a job took, as the API tells them."""

from collections.abc import Callable
from typing import Any

import httpx

from service.api.schemas import MANIFEST_EXAMPLE
from service.contract.job import Artifact, Lane
from service.contract.manifest import Manifest, manifest_key
from service.contract.spent import Spent
from tests.support.jobs import make_artifact
from tests.support.lanes import HandWorker

Submit = Callable[..., dict[str, Any]]


def test_a_finished_video_has_one(http: httpx.Client, submit: Submit, worker: HandWorker) -> None:
    job = submit()
    here = job["links"]["self"]
    assert job["links"]["manifest"] is None
    assert http.get(f"{here}/manifest").json()["code"] == "video_not_ready"
    video = worker.run_all(1)
    link = http.get(here).json()["links"]["manifest"]
    # Of a video that was made before manifests were kept.
    answer = http.get(link)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_manifest")
    written = Manifest.model_validate(MANIFEST_EXAMPLE).model_dump_json().encode()
    worker.storage.put(manifest_key(video), written, "application/json")
    assert Manifest.model_validate(http.get(link).json()).job_id == MANIFEST_EXAMPLE["job_id"]
    http.delete(here).raise_for_status()
    assert not list(worker.storage.list(f"jobs/{job['id']}/"))


def test_work_is_counted_once_however_often_it_is_committed(
    http: httpx.Client, submit: Submit, worker: HandWorker
) -> None:
    job = submit(seconds="2.4")["links"]["self"]
    assert http.get(job).json()["metrics"]["queue_seconds"] is None
    worker.run(Lane.RENDER)

    def sample(spent: Spent) -> None:
        task = worker.claim(Lane.RENDER)
        artifact: Artifact = make_artifact(task)
        for _ in range(2):
            assert worker.record.commit(task, artifact, spent).accepted

    sample(Spent(steps=16, vram=3 * 2**40))
    sample(Spent(steps=16, skipped=5, vram=2**40))
    metrics = http.get(job).json()["metrics"]
    assert metrics["queue_seconds"] >= 0
    assert (metrics["steps"], metrics["skipped_steps"]) == (32, 5)
    assert metrics["peak_vram_bytes"] == 3 * 2**40
    assert (metrics["gpu_seconds"] > 0, metrics["deliver_seconds"]) == (True, 0.0)
