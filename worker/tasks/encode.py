"""encode: prompt and picture become the conditioning that every section of the job reads."""

from __future__ import annotations

from framepack.generation.encode import encode
from framepack.media.images import open_image
from service.contract.job import Artifact
from worker.artifacts import new_key
from worker.checkpoints import CONTENT_TYPE, conditioning_from_bytes, conditioning_to_bytes
from worker.tasks.attempt import Attempt


def run(attempt: Attempt) -> Artifact:
    """Encode a job's prompt and picture and store the result."""
    artifacts, task = attempt.tools.artifacts, attempt.task
    image = open_image(artifacts.read(task.spec.image, attempt.check))
    conditioning = encode(attempt.models.encoders, attempt.plan, image)
    attempt.check()
    data = conditioning_to_bytes(conditioning)
    stored = artifacts.store(new_key(task, "safetensors"), data, CONTENT_TYPE, attempt.check)
    # What the next section reads here is what any other worker would read.
    artifacts.remember(stored, conditioning_from_bytes(data), len(data))
    return stored
