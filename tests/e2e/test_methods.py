"""Every order, and schedules and methods nobody released, through the whole service."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.generation.generate import generate
from framepack.generation.orders import ORDERS
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.media.images import open_image
from framepack.packing.families import FAMILIES
from framepack.packing.report import TABLE_SCHEDULES
from framepack.presets import load_preset
from service.contract.job import JobRequest, Lane
from tests.e2e.conftest import Service
from tests.support.fleet import PICTURE_SIZE, frozen, picture

pytestmark = pytest.mark.slow

LATER = [{"seconds": 1.5, "prompt": "a blue ring"}]

METHODS: list[dict[str, Any]] = [
    {"schedule": "ta_f2k1h4w4f1k1_g9", "order": "vanilla", "ranking": "hybrid"},
    {"schedule": "temporal_kernel+D", "order": "inverted"},
    {"schedule": "tc_f1k1_g9", "order": "vanilla", "history_noise": 0.2, "history_guidance": 1.5},
    {"order": "endpoints", "pictured": False, "ranking": "similarity"},
]
"""What each changes does not end with a section: a tail, a ranking, noise that moves the draws."""


BEGINNINGS = [
    *((name, True) for name in ORDERS),
    *((name, False) for name, order in ORDERS.items() if not order.needs_picture),
]
"""Every order from a picture, and from the prompt alone where it can."""


@pytest.mark.parametrize(("order", "pictured"), BEGINNINGS)
def test_every_order_gives_a_video_with_prompts_by_position(
    service: Service, order: str, pictured: bool
) -> None:
    job_id = service.fleet.submit(
        seconds=3.6,
        steps=2,
        order=order,
        schedule="geometric",
        later_prompts=LATER,
        pictured=pictured,
    )
    job = service.fleet.wait_for_end(job_id)
    assert job.status == "completed"
    assert job.video is not None
    assert job.video.num_frames == (109 if pictured else 105)
    spec = service.fleet.record.spec(job_id)
    assert [each.prompt for each in spec.request.later_prompts] == ["a blue ring"]


DEFAULTS = {order.default_schedule for order in ORDERS.values()}
SCHEDULES = [*(f"{name}+D" for name in FAMILIES), *(set(TABLE_SCHEDULES.values()) - DEFAULTS)]


def order_of(schedule: str) -> str:
    """The first order that can fill a schedule's context."""
    for order in ORDERS:
        with suppress(InvalidRequest):
            plan_generation(GenerationRequest("x", order=order, schedule=schedule), PICTURE_SIZE)
            return order
    raise AssertionError(f"no order takes {schedule}")


def test_every_schedule_gives_a_video(service: Service) -> None:
    """All that have a name here, families with discretised history; orders' own are tried above."""
    jobs = {
        name: service.fleet.submit(seconds=1.2, steps=1, order=order_of(name), schedule=name)
        for name in SCHEDULES
    }
    for name, job_id in jobs.items():
        job = service.fleet.wait_for_end(job_id, seconds=120)
        assert job.status == "completed", name
        assert job.video is not None
        assert job.video.num_frames == 37


def test_the_service_makes_what_the_library_makes(service: Service, tmp_path: Path) -> None:
    """Though each section is a task of its own, which has only committed latents to look at."""
    requests = [{"seconds": 3.6, "steps": 2, "seed": 5, **method} for method in METHODS]
    jobs = [service.fleet.submit(**request) for request in requests]
    models = load_preset("tiny", service.weights, "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for request, job_id in zip(requests, jobs, strict=True):
            pictured = request.pop("pictured", True)
            generation = JobRequest(prompt="a red ball", **request).to_generation()
            plan = plan_generation(generation, PICTURE_SIZE if pictured else None)
            image = open_image(picture()) if pictured else None
            list(generate(models, plan, image, tmp_path / "video.mp4"))
            assert service.fleet.wait_for_end(job_id).status == "completed"
            assert (tmp_path / "video.mp4").read_bytes() == service.fleet.video(job_id), request
    finally:
        torch.set_num_threads(threads)


def test_a_killed_text_to_video_job_has_the_same_bytes(service: Service) -> None:
    """In the order whose second section is the video's first, with nothing before it."""
    fleet = service.fleet
    request: dict[str, Any] = {"pictured": False, "seconds": 3.6, "steps": 2, "order": "endpoints"}
    undisturbed = fleet.submit(**request)
    assert fleet.wait_for_end(undisturbed).status == "completed"
    with frozen(service.render):
        victim = fleet.start_lane(Lane.RENDER, crash_point="sample:1:step:2")
        victim.wait_until_ready()
        job_id = fleet.submit(**request)
        assert victim.wait() == -signal.SIGKILL
    assert fleet.wait_for_end(job_id).status == "completed"
    assert "retrying" in fleet.names(job_id)
    assert fleet.video(job_id) == fleet.video(undisturbed)
