"""The manifest of a finished video, see `service.contract.manifest`."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

from framepack.generation.plan import Plan
from framepack.models.fingerprint import Fingerprint
from service.contract.job import OF_THE_JOB, Artifact, JobSpec, Lane
from service.contract.manifest import EngineOf, Manifest, ManifestImage, ManifestVideo
from worker.checkpoints import engine_of_conditioning
from worker.tasks.attempt import Attempt


def manifest_of(attempt: Attempt, video: Artifact) -> bytes:
    """The manifest of the video that an attempt at `finish` has stored, as JSON."""
    spec, plan = attempt.task.spec, attempt.plan
    found = Manifest(
        job_id=spec.id,
        request=_request(spec, plan),
        image=_image(spec),
        num_sections=spec.num_sections,
        sampling={
            "sampler": plan.config.sampler,
            "first_sigma": str(plan.config.first_sigma),
            "step_cache": repr(attempt.models.step_cache(plan.request.quality)),
        },
        engines={
            Lane.RENDER.value: _render_engine(attempt),
            Lane.DELIVER.value: _engine(attempt.engine),
        },
        software={
            "framepack-service": version("framepack-service"),
            "python": platform.python_version(),
        },
        video=ManifestVideo(
            sha256=video.sha256,
            size_bytes=video.size_bytes,
            num_frames=plan.num_pixel_frames,
            fps=plan.config.fps,
            height=plan.height,
            width=plan.width,
        ),
    )
    return json.dumps(found.model_dump(mode="json"), indent=1).encode()


def _request(spec: JobSpec, plan: Plan) -> dict[str, Any]:
    """The request with what the plan made of it, so that later defaults change nothing."""
    request = spec.request.model_dump(mode="json", exclude=set(OF_THE_JOB))
    decided = {
        "steps": plan.steps,
        "order": plan.order,
        "schedule": str(plan.schedule),
        "size": f"{plan.width}x{plan.height}",
        "guidance_scale": None if plan.config.guidance_scale is None else plan.guidance_scale,
        "cfg_scale": plan.cfg_scale,
    }
    return {**request, **decided}


def _image(spec: JobSpec) -> ManifestImage | None:
    if spec.image is None or spec.image_size is None:
        return None
    height, width = spec.image_size
    return ManifestImage(
        sha256=spec.image.sha256, size_bytes=spec.image.size_bytes, height=height, width=width
    )


def _render_engine(attempt: Attempt) -> EngineOf:
    """What encoded and sampled: the lane is pinned to one engine, which left its details behind."""
    conditioning = attempt.task.artifacts[f"{Lane.RENDER}:0"]
    details = engine_of_conditioning(attempt.tools.artifacts.read(conditioning, attempt.check))
    if details is None:
        return EngineOf(fingerprint=None, details=None)
    return _engine(Fingerprint.of(details))


def _engine(engine: Fingerprint) -> EngineOf:
    return EngineOf(fingerprint=engine.short, details=dict(engine.details))
