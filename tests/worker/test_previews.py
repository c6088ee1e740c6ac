from __future__ import annotations

import io
import time

import pytest
import torch
from PIL import Image

from framepack.generation.preview import LinearDecoder
from framepack.generation.section import Step
from service.contract.job import Artifact, Lane
from tests.support.fleet import Fleet
from tests.worker.conftest import Claim
from worker.drain import Drain
from worker.lease import Lease
from worker.previews import SECONDS_BETWEEN, SectionPreviews
from worker.reporter import Reporter

DONE = Artifact(key="jobs/x/render/0", sha256="0" * 64, size_bytes=1, content_type="")


@pytest.fixture
def lease(fleet: Fleet, claim: Claim) -> Lease:
    """On the sampling of a first section."""
    fleet.submit()
    fleet.record.commit(claim(Lane.RENDER), DONE)
    return Lease(claim(Lane.RENDER), 10.0, time.monotonic(), Drain())


class Sampling:
    """A section being sampled, step by step, on a clock of its own."""

    def __init__(self, fleet: Fleet, lease: Lease) -> None:
        self.now = 0.0
        generator = torch.Generator().manual_seed(0)
        weights = 0.3 * torch.randn(17, 3 * 8 * 8, generator=generator)
        self.reporter = Reporter(fleet.record)
        self.previews = SectionPreviews(
            lease, LinearDecoder(weights, 8), self.reporter, clock=lambda: self.now
        )
        self.record = fleet.record
        self.job_id = lease.task.job_id

    def queue(self, index: int) -> None:
        estimate = torch.full((1, 16, 9, 8, 8), 0.1 * index)
        self.previews.queued(Step(index, 10, estimate))

    def shown(self) -> int | None:
        """After how many steps the latest preview was."""
        self.reporter.settle()
        preview = self.record.preview(self.job_id)
        return None if preview is None else preview.step


def test_a_picture_is_told_when_its_step_is_done(fleet: Fleet, lease: Lease) -> None:
    sampling = Sampling(fleet, lease)
    sampling.now = SECONDS_BETWEEN
    sampling.queue(2)
    sampling.previews.done(2, 10)
    assert sampling.shown() is None
    sampling.queue(3)
    sampling.previews.done(3, 10)
    assert sampling.shown() == 3
    preview = fleet.record.preview(sampling.job_id)
    assert preview is not None
    assert (preview.section, preview.step, preview.total_steps) == (0, 3, 10)
    with Image.open(io.BytesIO(preview.image)) as image:
        assert (image.format, image.size) == ("JPEG", (preview.width, preview.height))
    assert 0 < int(fleet.redis.pttl(f"framepack:job:{sampling.job_id}:preview")) <= 60_000


def test_pictures_come_no_more_often_than_steps_are_told(fleet: Fleet, lease: Lease) -> None:
    sampling = Sampling(fleet, lease)
    seen = []
    for index in range(10):
        sampling.now += SECONDS_BETWEEN / 4
        sampling.queue(index)
        sampling.previews.done(index + 1, 10)
        seen.append(sampling.shown())
    assert seen == [None] * 3 + [4] * 4 + [8] * 3


def test_a_preview_of_a_lost_task_is_not_shown(fleet: Fleet, lease: Lease) -> None:
    sampling = Sampling(fleet, lease)
    fleet.record.release(lease.task)
    sampling.now = SECONDS_BETWEEN
    sampling.queue(0)
    sampling.previews.done(1, 10)
    assert sampling.shown() is None
    assert lease.is_refused
