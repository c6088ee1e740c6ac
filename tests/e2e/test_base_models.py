"""A job for another base model than ``tiny``'s: the same lanes, the same tasks, its own preset."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from framepack.generation.generate import generate
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.media.images import open_image
from framepack.models.wan_tiny import build_wan_folder
from framepack.presets import load_preset
from tests.support.fleet import PICTURE_SIZE, Fleet, picture
from tests.support.valkey import Valkey

pytestmark = pytest.mark.slow


def test_the_service_makes_what_the_library_makes(tmp_path: Path) -> None:
    """In two sections: the second one reads the first one's checkpoint."""
    weights = tmp_path / "wan"
    build_wan_folder(weights)
    fields: dict[str, Any] = {"preset": "tiny-wan", "seconds": 2.75, "steps": 2, "seed": 7}
    valkey, folder = tmp_path / "valkey", tmp_path / "service"
    valkey.mkdir()
    folder.mkdir()
    with Valkey(valkey) as server, Fleet(server.url, {"tiny-wan": weights}, folder) as fleet:
        supervisor, _ = fleet.supervise()
        job_id = fleet.submit(**fields)
        job = fleet.wait_for_end(job_id)
        assert job.status == "completed"
        made = fleet.video(job_id)
        supervisor.signal(signal.SIGTERM)
        assert supervisor.wait() == 0, supervisor.text()
    plan = plan_generation(GenerationRequest("a red ball", **fields), PICTURE_SIZE)
    models = load_preset("tiny-wan", weights, "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        list(generate(models, plan, open_image(picture()), tmp_path / "video.mp4"))
    finally:
        torch.set_num_threads(threads)
    assert job.video is not None
    assert job.video.num_frames == plan.num_pixel_frames == 66
    assert (tmp_path / "video.mp4").read_bytes() == made
