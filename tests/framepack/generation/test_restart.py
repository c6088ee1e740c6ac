"""Repeating image-to-video: each section begins anew from the last picture, and knows no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.generation.history import History, sections_needed
from framepack.generation.orders import ORDERS
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.generation.restart import restarted
from framepack.generation.seeds import start_generator
from framepack.packing.schedule import parse_schedule
from framepack.presets import Models, load_preset

SECTIONS = ORDERS["repeating"].sections(3, parse_schedule(ORDERS["repeating"].default_schedule))


@pytest.fixture(scope="module")
def models(nano_folder: Path) -> Models:
    return load_preset("tiny", nano_folder, "cpu")


def filled(seed: int) -> History:
    """Sections 0 and 1 made; ``seed`` changes the first alone."""
    generators = [torch.Generator().manual_seed(s) for s in (seed, 2)]
    history = History(torch.randn(1, 16, 1, 8, 8, generator=generators[0]))
    for section, generator in zip(SECTIONS[:2], generators, strict=True):
        history.add(section.frames, torch.randn(1, 16, 9, 8, 8, generator=generator))
    return history


def test_every_section_is_laid_out_as_the_first() -> None:
    first = ORDERS["forward"].sections(3, parse_schedule(ORDERS["forward"].default_schedule))[0]
    assert all(section.context == first.context for section in SECTIONS)
    assert [section.restart for section in SECTIONS] == [(), SECTIONS[0].frames, SECTIONS[1].frames]
    assert sections_needed(SECTIONS[2], SECTIONS) == [SECTIONS[1]]


def test_the_start_is_the_last_picture_encoded_again(models: Models) -> None:
    history = filled(1)
    seen = restarted(SECTIONS[2], history, models.codec, seed=9)
    pixels = models.codec.decode_window(history.frames(range(14, 19)))[0, :, -1]
    picture = (pixels.float().clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8).permute(1, 2, 0)
    expected = models.codec.encode_image(np.asarray(picture), start_generator(9))
    assert torch.equal(seen.frames([0]), expected)
    assert not seen.frames(range(1, 28)).any(), "nothing else is remembered"


def test_nothing_before_the_last_section_matters(models: Models) -> None:
    one, other = (restarted(SECTIONS[2], filled(s), models.codec, 9).frames([0]) for s in (1, 7))
    assert torch.equal(one, other)


def test_other_sections_keep_their_history(models: Models) -> None:
    history = filled(1)
    assert restarted(SECTIONS[0], history, models.codec, 9) is history


def test_there_is_nothing_to_rank() -> None:
    request = GenerationRequest("x", order="repeating", ranking="hybrid")
    with pytest.raises(InvalidRequest, match="nothing to rank"):
        plan_generation(request, (64, 64))
