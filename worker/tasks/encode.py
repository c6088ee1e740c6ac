"""encode: prompt and picture, if there is one, become the conditioning all sections read."""

from __future__ import annotations

from framepack.generation.encode import encode
from framepack.media.images import open_image
from service.contract.job import Artifact
from worker.checkpoints import CONTENT_TYPE, conditioning_from_bytes, conditioning_to_bytes
from worker.tasks.attempt import Attempt


def run(attempt: Attempt) -> Artifact:
    """Encode a job's prompt and picture and store the result."""
    artifacts, task = attempt.tools.artifacts, attempt.task
    stored = task.spec.image
    image = None if stored is None else open_image(artifacts.read(stored, attempt.check))
    with attempt.stage("encode"):
        conditioning = encode(attempt.models.encoders, attempt.plan, image)
    attempt.check()
    data = conditioning_to_bytes(conditioning, attempt.engine.details)
    encoded = attempt.store("safetensors", data, CONTENT_TYPE)
    # What the next section reads here is what any other worker would read.
    artifacts.remember(encoded, conditioning_from_bytes(data), len(data))
    return encoded
