"""What was decided when a job was accepted, and the video that came of it, as JSON shows them."""

from __future__ import annotations

from service.contract.job import Artifact, JobSpec
from service.contract.views import PlanView, VideoView


def plan_view(spec: JobSpec) -> PlanView:
    """What was decided when the job was accepted."""
    height, width = spec.video_size
    return PlanView(
        order=spec.order,
        schedule=spec.schedule,
        num_sections=spec.num_sections,
        places=list(spec.places),
        num_frames=spec.num_frames,
        fps=spec.fps,
        width=width,
        height=height,
        duration_seconds=round(spec.num_frames / spec.fps, 3),
    )


def video_view(spec: JobSpec, artifact: Artifact) -> VideoView:
    """The finished video."""
    plan = plan_view(spec)
    return VideoView(
        content_type=artifact.content_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        num_frames=artifact.num_frames or plan.num_frames,
        fps=plan.fps,
        width=plan.width,
        height=plan.height,
        duration_seconds=plan.duration_seconds,
    )
