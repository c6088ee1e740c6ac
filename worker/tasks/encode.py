"""encode: prompt and picture become the conditioning that every section of the job reads."""

from __future__ import annotations

from framepack.generation.encode import encode
from framepack.media.images import open_image
from service.contract.job import Artifact
from worker.checkpoints import CONTENT_TYPE, conditioning_from_bytes, conditioning_to_bytes
from worker.tasks.attempt import Attempt


def run(attempt: Attempt) -> Artifact:
    """Encode a job's prompt and picture and store the result."""
    artifacts, task = attempt.tools.artifacts, attempt.task
    image = open_image(artifacts.read(task.spec.image, attempt.check))
    with attempt.stage("encode"):
        conditioning = encode(attempt.models.encoders, attempt.plan, image)
    attempt.check()
    data = conditioning_to_bytes(conditioning)
    stored = attempt.store("safetensors", data, CONTENT_TYPE)
    # What the next section reads here is what any other worker would read.
    artifacts.remember(stored, conditioning_from_bytes(data), len(data))
    return stored
