"""What a task function gets: one attempt at one task, and what the process lends it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch

from framepack.generation.conditioning import Conditioning
from framepack.generation.orders import Section
from framepack.generation.plan import Plan, plan_generation
from framepack.models.fingerprint import Fingerprint
from framepack.presets import Models
from framepack.types import Latents
from service.contract.job import Artifact, JobSpec, Lane
from service.contract.record import Task
from service.contract.spent import Spent
from service.contract.tracing import part
from worker.artifacts import Artifacts, new_key
from worker.checkpoints import SectionCheckpoint, conditioning_from_bytes
from worker.faults import CrashPoint
from worker.lease import Lease
from worker.metrics import WorkerMetrics
from worker.previews import Previews
from worker.reporter import Reporter

REMEMBERED_PLANS = 8


class Plans:
    """The plans of the jobs this process worked on last; a long video's takes long to make."""

    def __init__(self) -> None:
        self._by_job: OrderedDict[str, Plan] = OrderedDict()

    def of(self, spec: JobSpec) -> Plan:
        """The plan of a job, whose specification never changes."""
        if spec.id not in self._by_job:
            request = spec.request.to_generation()
            self._by_job[spec.id] = plan_generation(request, spec.image_size)
        self._by_job.move_to_end(spec.id)
        while len(self._by_job) > REMEMBERED_PLANS:
            self._by_job.popitem(last=False)
        return self._by_job[spec.id]


@dataclass(frozen=True)
class Tools:
    """What lives as long as the process.

    Attributes:
        artifacts: The storage, with a memory.
        reporter: Reports denoising steps.
        previews: Shows what is being sampled.
        metrics: Of this process.
        crash_point: Where a test wants this process to die.
        plans: What was decided about jobs.
    """

    artifacts: Artifacts
    reporter: Reporter
    previews: Previews
    metrics: WorkerMetrics
    crash_point: CrashPoint
    plans: Plans = field(default_factory=Plans)


class PlanMismatch(Exception):  # noqa: N818 - reads as what it is at the raise site
    """This worker would make another video than the one that was accepted."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at one task.

    Attributes:
        lease: On the task.
        models: Of the job's preset.
        engine: What decides the bytes that they make.
        tools: Of the process.
        spent: What sampling took, once it is done.
    """

    lease: Lease
    models: Models
    engine: Fingerprint
    tools: Tools
    spent: list[Spent] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """What is to be done."""
        return self.lease.task

    @property
    def check(self) -> Callable[[], None]:
        """Raises when the work should end, see `Lease.check`."""
        return self.lease.check

    @cached_property
    def plan(self) -> Plan:
        """The job's plan, decided again by the same code that decided it at the gateway.

        Raises:
            PlanMismatch: It is not what the gateway accepted: other versions.
        """
        spec = self.task.spec
        plan = self.tools.plans.of(spec)
        accepted = (spec.num_sections, spec.num_frames, spec.fps, spec.video_size)
        ours = (
            len(plan.sections),
            plan.num_pixel_frames,
            plan.config.fps,
            (plan.height, plan.width),
        )
        if ours != accepted:
            raise PlanMismatch(f"accepted {accepted}, planned {ours}")
        return plan

    @property
    def section(self) -> Section:
        """The section that the task is about."""
        assert self.task.section is not None
        return self.plan.sections[self.task.section]

    def reach(self, where: str) -> None:
        """Pass a place where a test may want the process to die."""
        self.tools.crash_point.reach(self.task.kind, self.task.section, where)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure and trace a stage; see `WorkerMetrics.section_seconds` for the names."""
        with part(name), self.tools.metrics.stage(self.models.preset.name, name):
            yield

    def store(self, suffix: str, data: bytes, content_type: str) -> Artifact:
        """Upload the task's result under a key of its own. Raises StorageError."""
        with self.stage("upload"):
            key = new_key(self.task, suffix)
            return self.tools.artifacts.store(key, data, content_type, self.check)

    def conditioning(self) -> Conditioning:
        """The committed conditioning of the job."""
        artifact = self.task.artifacts[f"{Lane.RENDER}:0"]
        return self.tools.artifacts.load(artifact, conditioning_from_bytes, self.check)

    def checkpoint(self, section: int) -> SectionCheckpoint:
        """The committed checkpoint of a section, by order of sampling."""
        artifact = self.task.artifacts[f"{Lane.RENDER}:{section + 1}"]
        return self.tools.artifacts.load(artifact, SectionCheckpoint.from_bytes, self.check)

    def latents_of(self, frames: Sequence[int]) -> Latents:
        """Committed latents of latent frame numbers, fetching only the sections they are in."""
        return torch.cat([self._latent(frame) for frame in frames], dim=2)

    def _latent(self, frame: int) -> Latents:
        if frame == 0:
            return self.conditioning().start.float()
        section, place = self._places[frame]
        return self.checkpoint(section).latents[:, :, place : place + 1]

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """Section and place in it, by latent frame number."""
        return {
            frame: (section.index, place)
            for section in self.plan.sections
            for place, frame in enumerate(section.frames)
        }

    def clips(self) -> list[Artifact]:
        """The committed clips by their place in the video."""
        count = self.task.spec.num_sections
        clips = [self.task.artifacts[f"{Lane.DELIVER}:{index}"] for index in range(count)]
        return sorted(clips, key=lambda clip: clip.first_frame or 0)
