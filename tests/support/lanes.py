"""A worker without a model: claims real tasks of the real record and commits given bytes."""

from __future__ import annotations

import hashlib
import uuid

from service.contract.bells import Bells
from service.contract.job import Artifact, Lane
from service.contract.record import Record, Task, WorkerIdentity
from service.contract.storage.base import Storage

INIT = b"shared initialisation"


class HandWorker:
    """Serves both lanes of the preset `tiny`, one task at a time, when a test says so."""

    def __init__(self, record: Record, storage: Storage, bells: Bells | None = None) -> None:
        self.record = record
        self.storage = storage
        self.bells = bells

    def claim(self, lane: Lane) -> Task:
        identity = WorkerIdentity(f"hand-{lane}", lane, {"tiny": "hand-made"})
        task = self.record.claim(identity, uuid.uuid4().hex)
        assert task is not None, f"there is no work for {lane}"
        return task

    def commit(self, task: Task) -> Artifact:
        """Store a task's result and make it part of the job."""
        kind = "mp4" if task.lane is Lane.DELIVER else "safetensors"
        key = f"jobs/{task.job_id}/{task.lane}/{task.number}-{task.fence}.{kind}"
        content_type = "video/mp4" if kind == "mp4" else "application/octet-stream"
        body, fields = self.result(task)
        artifact = Artifact(
            key=key,
            sha256=hashlib.sha256(body).hexdigest(),
            size_bytes=len(body),
            content_type=content_type,
            **fields,
        )
        self.storage.put(key, body, artifact.content_type)
        assert self.record.commit(task, artifact).accepted
        return artifact

    def result(self, task: Task) -> tuple[bytes, dict[str, int]]:
        """The bytes of a task's result, and what the record is told about them."""
        body = INIT + f"{task.lane} {task.number}".encode()
        if task.kind == "decode":
            clip = {"first_frame": 36 * task.number, "num_frames": 36, "init_bytes": len(INIT)}
            return body, clip
        return body, {"num_frames": task.spec.num_frames} if task.kind == "finish" else {}

    def run(self, lane: Lane, tasks: int = 1) -> Artifact:
        """Do the next tasks of a lane; returns the last one's result."""
        for _ in range(tasks - 1):
            self.commit(self.claim(lane))
        return self.commit(self.claim(lane))

    def run_all(self, sections: int) -> Artifact:
        """Do a whole job; returns its video."""
        self.run(Lane.RENDER, 1)
        for _ in range(sections):
            self.run(Lane.RENDER)
            self.run(Lane.DELIVER)
        return self.run(Lane.DELIVER)
