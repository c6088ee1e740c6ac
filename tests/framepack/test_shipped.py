"""The weights in this package: complete, small enough, and trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framepack.drift.codebook import discretise
from framepack.evaluation.world import WorldEvaluation, evaluate_world, round_trip
from framepack.generation.generate import Finished, generate
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.presets import FOLDERS, SHIPPED_TINY, Models, load_preset
from framepack.training.cache import encode_video
from framepack.training.sources import SourceClip
from framepack.world.render import render
from framepack.world.scene import FIRST_HELD_OUT_SEED, draw_scene

LARGEST_FILE = 16 * 2**20


@pytest.fixture(scope="module")
def tiny() -> Models:
    return load_preset("tiny", None, "cpu")


def test_tiny_is_shipped_whole() -> None:
    assert {name for names in FOLDERS.values() for name in names} <= {
        path.name for path in SHIPPED_TINY.iterdir()
    }
    card = (SHIPPED_TINY / "README.md").read_text(encoding="utf-8")
    for word in ("steps", "held-out", "Limits"):
        assert word in card
    assert json.loads((SHIPPED_TINY / "framepack.json").read_text())["prompt_crop_start"] == 4


def test_no_file_is_too_large_for_a_repository() -> None:
    sizes = {path: path.stat().st_size for path in Path(SHIPPED_TINY).rglob("*") if path.is_file()}
    assert max(sizes.values()) <= LARGEST_FILE


def test_the_codec_keeps_thirty_decibels(tiny: Models) -> None:
    clips = [render(draw_scene(FIRST_HELD_OUT_SEED + n), 17).frames for n in range(40, 48)]
    errors = [np.square(round_trip(tiny, clip) / 255 - clip / 255).mean() for clip in clips]
    assert -10 * np.log10(np.mean(errors)) > 30


def test_the_codebook_keeps_what_it_was_chosen_for(tiny: Models) -> None:
    """As many entries as keep 25 dB of what the codec makes; other scenes than it was fitted to."""
    assert tiny.codebook is not None
    assert tiny.codebook_file is not None
    assert tiny.codebook_file.stat().st_size < 2**20
    vae: Any = tiny.codec
    errors = []
    for n in range(40, 46):
        clip = render(draw_scene(FIRST_HELD_OUT_SEED + n), 17).frames
        latents = encode_video(vae.vae, SourceClip(clip, ""))
        plain, coarse = (
            tiny.codec.decode_window(each).clamp(-1, 1)
            for each in (latents, discretise(latents, tiny.codebook))
        )
        errors.append(((plain - coarse) / 2).square().mean().item())
    assert 23 < -10 * np.log10(np.mean(errors)) < 30


def test_a_video_with_discretised_history(tiny: Models, tmp_path: Path) -> None:
    request = GenerationRequest(
        "a red ball", seconds=2.4, steps=1, order="vanilla", schedule="td_f4k4f2k2f1k1_g9+D"
    )
    events = generate(tiny, plan_generation(request, None), None, tmp_path / "video.mp4")
    assert list(events)[-1] == Finished(tmp_path / "video.mp4", 69)


def test_a_video_keeps_the_scene(tiny: Models) -> None:
    """Limits well below what these weights reach, so that it fails when something is broken."""
    evaluation = WorldEvaluation(specs=1, seeds=1, sections=2, arms=("inverted",), steps=10)
    ((_, video),) = evaluate_world(tiny, evaluation)
    assert np.nanmean(video.series["background_psnr"]) > 22
    assert video.series["presence"].mean() > 0.7
    assert np.nanmean(video.series["colour_error"]) < 0.2
