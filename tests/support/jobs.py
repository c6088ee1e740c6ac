"""Jobs, workers and artifacts for tests of the record; no worker process, no models."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from service.contract.job import Artifact, JobRequest, JobSpec, Lane
from service.contract.record import Record, Task, WorkerIdentity

PRESET = "tiny"


def make_spec(tenant: str = "someone", sections: int = 2, **changes: Any) -> JobSpec:
    job_id = uuid.uuid4().hex
    image = Artifact(
        key=f"jobs/{job_id}/image.png", sha256="0" * 64, size_bytes=1, content_type="image/png"
    )
    values: dict[str, Any] = {
        "id": job_id,
        "tenant": tenant,
        "request": JobRequest(prompt="a ball bounces", preset=PRESET, seed=1),
        "image": image,
        "image_size": (64, 64),
        "num_sections": sections,
        "num_frames": 36 * sections + 1,
        "fps": 30,
        "video_size": (64, 64),
    }
    return JobSpec(**{**values, **changes})


def make_artifact(task: Task) -> Artifact:
    return Artifact(
        key=f"jobs/{task.job_id}/{task.lane}/{task.number}-{task.fence}.bin",
        sha256="0" * 64,
        size_bytes=1,
        content_type="video/mp4",
        first_frame=36 * task.number,
        num_frames=36,
    )


@dataclass
class Claimer:
    """A worker process as the record sees it."""

    record: Record
    lane: Lane = Lane.RENDER
    fingerprint: str = "engine-a"
    presets: tuple[str, ...] = (PRESET,)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def identity(self) -> WorkerIdentity:
        return WorkerIdentity(self.name, self.lane, dict.fromkeys(self.presets, self.fingerprint))

    def claim(self) -> Task | None:
        return self.record.claim(self.identity, uuid.uuid4().hex)

    def must_claim(self) -> Task:
        task = self.claim()
        assert task is not None, "there was nothing to claim"
        return task

    def do_one(self) -> Task | None:
        """Claim and commit one task, if there is one."""
        task = self.claim()
        if task is not None:
            self.record.commit(task, make_artifact(task))
        return task


def do_all(record: Record) -> list[Task]:
    """Work until nothing is left; the tasks in the order they were done."""
    lanes = [Claimer(record, lane) for lane in Lane]
    done: list[Task] = []
    while True:
        found = [task for worker in lanes if (task := worker.do_one()) is not None]
        if not found:
            return done
        done += found
