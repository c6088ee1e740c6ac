"""The main job: a picture and a prompt become a video that plays."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch

from framepack.cli import main
from framepack.media.clips import top_level_boxes
from service.contract import events
from service.contract.job import apply
from service.contract.manifest import Manifest, manifest_key
from tests.e2e.conftest import REQUEST, Service
from tests.support.fleet import picture

pytestmark = pytest.mark.slow


@pytest.fixture
def cpu_threads() -> Iterator[None]:
    """The process's threads as they were: a manifest says how many to compute with."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_job_becomes_a_video_that_plays(service: Service) -> None:
    fleet = service.fleet
    job_id = fleet.submit(seconds=3.6)
    job = fleet.wait_for_end(job_id)

    assert job.status == "completed"
    assert job.video is not None
    assert job.video.num_frames == 36 * 3 + 1
    video = fleet.content(job.video)
    assert [kind for kind, _, _ in top_level_boxes(video)][:2] == ["ftyp", "moov"]
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 30
        times = [frame.pts * stream.time_base * 30 for frame in container.decode(stream)]
    assert times == list(range(36 * 3 + 1))


def test_every_event_comes_once_and_in_order(service: Service) -> None:
    fleet = service.fleet
    job_id = fleet.submit(seconds=2.4, order="forward")
    job = fleet.wait_for_end(job_id)
    stream = fleet.events(job_id)

    assert [event.sequence for event in stream] == list(range(1, len(stream) + 1))
    folded = None
    for event in stream:
        folded = apply(folded, event)
    assert folded == job
    names = [event.type for event in stream]
    assert names[:2] == [events.QUEUED, events.STARTED]
    assert names[-1] == events.COMPLETED
    of_section = {
        name: [e.data["section"] for e in stream if e.type == name]
        for name in (events.SECTION_STARTED, events.SECTION_SAMPLED, events.SECTION_COMPLETED)
    }
    assert set(map(tuple, of_section.values())) == {(0, 1)}
    assert len(names) == 3 + 3 * 2


def test_clips_play_by_themselves_and_name_their_frames(service: Service) -> None:
    fleet = service.fleet
    job_id = fleet.submit(seconds=3.6)
    job = fleet.wait_for_end(job_id)

    covered = []
    for clip in job.clips:
        assert clip.artifact.first_frame is not None
        with av.open(io.BytesIO(fleet.content(clip.artifact))) as container:
            stream = container.streams.video[0]
            frames = [frame.pts * stream.time_base * 30 for frame in container.decode(stream)]
        first = clip.artifact.first_frame
        assert frames == list(range(first, first + (clip.artifact.num_frames or 0)))
        covered += frames
    assert sorted(covered) == list(range(36 * 3 + 1))
    inits = {fleet.content(clip.artifact)[: clip.artifact.init_bytes or 0] for clip in job.clips}
    assert len(inits) == 1


def test_progress_lies_beside_the_clips(service: Service) -> None:
    fleet = service.fleet
    job_id = fleet.submit(seconds=2.4)
    job = fleet.wait_for_end(job_id)
    assert job.video is not None

    def written() -> dict[str, object]:
        document: dict[str, object] = json.loads(fleet.storage.get(f"jobs/{job_id}/progress.json"))
        return document

    fleet.wait_for(lambda: written()["status"] == "completed")
    document = written()
    assert document["total_frames"] == 73
    assert document["video"] == job.video.model_dump(exclude_none=True)
    assert document["last_sequence"] == job.last_sequence


def test_the_manifest_makes_the_same_video_again(
    service: Service,
    undisturbed: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cpu_threads: None,
) -> None:
    """With the library alone, so this also says that service and library make the same."""
    fleet = service.fleet
    job_id = fleet.submit(**REQUEST)
    job = fleet.wait_for_end(job_id)
    assert job.video is not None
    written = fleet.storage.get(manifest_key(job.video))
    manifest = Manifest.model_validate_json(written)
    assert manifest.request["steps"] == REQUEST["steps"]
    assert None not in (manifest.request["order"], manifest.request["schedule"])
    assert manifest.engines["render"].details is not None
    paths = [tmp_path / name for name in ("manifest.json", "photo.png", "again.mp4")]
    paths[0].write_bytes(written)
    paths[1].write_bytes(picture())
    command = ["reproduce", *map(str, paths[:2]), "-o", str(paths[2]), "--device", "cpu"]
    assert main([*command, "--weights", str(service.weights)]) == 0
    assert paths[2].read_bytes() == fleet.video(job_id) == undisturbed
    other = json.loads(written)
    other["request"]["seed"] += 1
    other["engines"]["render"]["details"]["version.torch"] = "0.1"
    paths[0].write_text(json.dumps(other))
    assert main([*command, "--weights", str(service.weights)]) == 1
    assert "render: version.torch was 0.1, is" in capsys.readouterr().err


def test_what_a_job_took_is_counted(service: Service) -> None:
    fleet = service.fleet
    job_id = fleet.submit(**REQUEST)
    fleet.wait_for_end(job_id)
    _, _, metrics = fleet.record.look(job_id)
    assert (metrics.steps, metrics.skipped_steps) == (3 * REQUEST["steps"], 0)
    assert metrics.peak_vram_bytes is None, "this is a CPU"
    assert metrics.queue_seconds is not None
    assert min(metrics.gpu_seconds, metrics.deliver_seconds) > 0


def test_the_same_request_gives_the_same_bytes(service: Service, undisturbed: bytes) -> None:
    again = service.fleet.submit(**REQUEST)
    other = service.fleet.submit(**{**REQUEST, "seed": 8})
    assert service.fleet.wait_for_end(again).status == "completed"
    assert service.fleet.wait_for_end(other).status == "completed"
    assert service.fleet.video(again) == undisturbed
    assert service.fleet.video(other) != undisturbed
