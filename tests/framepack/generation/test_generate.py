"""A whole video by one process, with real models of the smallest size."""

from __future__ import annotations

import hashlib
from inspect import getgeneratorlocals
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from framepack.errors import InvalidRequest
from framepack.generation.generate import (
    Delivered,
    Encoded,
    Finished,
    Progress,
    Sampled,
    Stepped,
    generate,
)
from framepack.generation.plan import GenerationRequest, Plan, plan_generation
from framepack.generation.stepcache import TeaCacheSettings
from framepack.media.clips import top_level_boxes
from framepack.presets import Models, load_preset


@pytest.fixture(scope="module")
def models(nano_folder: Path) -> Models:
    return load_preset("tiny", nano_folder, "cpu")


@pytest.fixture(scope="module")
def image() -> Any:
    return np.random.default_rng(4).integers(0, 256, (70, 64, 3), dtype=np.uint8)


def plan_of(**wishes: Any) -> Plan:
    request = GenerationRequest("a red ball bounces", **({"seconds": 3.6, "steps": 2} | wishes))
    return plan_generation(request, (70, 64))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made(models: Models, plan: Plan, image: Any, path: Path, **options: Any) -> list[Progress]:
    return list(generate(models, plan, image, path, **options))


@pytest.mark.parametrize("order", ["inverted", "forward"])
@pytest.mark.parametrize("delivery", ["aligned", "official"])
def test_the_video_is_complete(
    models: Models, image: Any, tmp_path: Path, order: str, delivery: str
) -> None:
    path = tmp_path / "video.mp4"
    events = made(models, plan_of(order=order), image, path, delivery=delivery)
    assert events[-1] == Finished(path, 109)
    assert [kind for kind, _, _ in top_level_boxes(path.read_bytes())][:2] == ["ftyp", "moov"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate) == (109, 30)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.stack(frames).shape == (109, 64, 64, 3)
    clips = [event.clip for event in events if isinstance(event, Delivered) and event.clip]
    covered = sorted((c.first_frame, c.first_frame + c.num_frames) for c in clips)
    assert [end for _, end in covered] == [*(start for start, _ in covered[1:]), 109]


def test_everything_is_reported_in_order(models: Models, image: Any, tmp_path: Path) -> None:
    events = made(models, plan_of(seconds=2.4), image, tmp_path / "video.mp4")
    section = [Stepped, Stepped, Sampled, Delivered]
    assert [type(event) for event in events] == [Encoded, *section, *section, Finished]
    steps = [(e.section, e.step.index, e.step.total) for e in events if isinstance(e, Stepped)]
    assert steps == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]


def test_the_same_request_gives_the_same_bytes(
    models: Models, image: Any, nano_folder: Path, tmp_path: Path
) -> None:
    first, again, other = (tmp_path / f"{name}.mp4" for name in ("first", "again", "other"))
    made(models, plan_of(), image, first)
    made(load_preset("tiny", nano_folder, "cpu"), plan_of(), image, again)
    made(models, plan_of(seed=1), image, other)
    assert sha256(first) == sha256(again) != sha256(other)


def test_a_longer_video_begins_with_the_same_noise(
    models: Models, image: Any, tmp_path: Path
) -> None:
    """Forward in time, more sections only add to what was made."""
    short, long = (
        made(models, plan_of(order="forward", seconds=seconds), image, tmp_path / "video.mp4")
        for seconds in (2.4, 3.6)
    )
    first_clips = [next(e.clip for e in each if isinstance(e, Delivered)) for each in (short, long)]
    assert first_clips[0] is not None
    assert first_clips[0] == first_clips[1]


def test_real_guidance_and_a_step_cache_change_the_video(
    models: Models, image: Any, tmp_path: Path
) -> None:
    plain, guided, cached = (tmp_path / f"{name}.mp4" for name in ("plain", "guided", "cached"))
    made(models, plan_of(seconds=1, steps=6), image, plain)
    made(models, plan_of(seconds=1, steps=6, cfg_scale=3.0), image, guided)
    cache = TeaCacheSettings(threshold=100.0)
    made(models, plan_of(seconds=1, steps=6), image, cached, step_cache=cache)
    assert len({sha256(path) for path in (plain, guided, cached)}) == 3


def test_closing_leaves_nothing_behind(models: Models, image: Any, tmp_path: Path) -> None:
    events = generate(models, plan_of(), image, tmp_path / "video.mp4")
    delivered = next(event for event in events if isinstance(event, Delivered))
    assert delivered.section == 0
    assert len(list(tmp_path.rglob("*.mp4"))) == 1
    next(events)
    events.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_held_latents_do_not_grow_with_the_video(
    models: Models, image: Any, tmp_path: Path, order: str
) -> None:
    held = []
    events = generate(models, plan_of(seconds=12, steps=1, order=order), image, tmp_path / "v.mp4")
    for event in events:
        if isinstance(event, Sampled):
            held.append(len(getgeneratorlocals(events)["history"]))
    assert len(held) == 10
    assert max(held) <= 1 + 9 + 19, "the start, the new section, and what sections look back to"
    assert held[3] == held[8]


def test_an_unknown_delivery_costs_nothing(models: Models, image: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="aligned, official"):
        next(generate(models, plan_of(), image, tmp_path / "video.mp4", "none"))
