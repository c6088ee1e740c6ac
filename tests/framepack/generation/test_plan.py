"""Requests to plans: counts, sizes, defaults, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from framepack.errors import InvalidRequest
from framepack.generation.plan import (
    GENERATION_CONFIGS,
    GenerationRequest,
    num_sections,
    plan_generation,
)

RELEASED = GENERATION_CONFIGS["framepack-i2v"]
SQUARE = (512, 512)


@pytest.mark.parametrize(
    ("seconds", "sections"),
    {
        1: 1,
        2: 2,
        3: 2,
        4: 3,
        5: 4,
        6: 5,
        8: 7,
        10: 8,
        15: 12,
        20: 17,
        30: 25,
        60: 50,
        0.1: 1,
    }.items(),
)
def test_section_counts_with_bankers_rounding(seconds: float, sections: int) -> None:
    assert num_sections(seconds, RELEASED) == sections


def test_five_seconds_are_145_frames() -> None:
    plan = plan_generation(GenerationRequest("a dog", preset="framepack-i2v"), (1080, 1920))
    assert (plan.num_latent_frames, plan.num_pixel_frames) == (37, 145)
    assert plan.duration_seconds == pytest.approx(4.83, abs=0.01)
    assert (plan.height, plan.width, plan.latent_size) == (480, 832, (60, 104))


@pytest.mark.parametrize(
    ("preset", "order", "schedule"),
    [
        ("framepack-i2v", "inverted", "f1k1_x_g9_f1k1f2k2f16k4_td"),
        ("framepack-f1", "forward", "f1k1_x_td_f16k4f2k2f1k1_g9"),
    ],
)
def test_presets_choose_what_their_checkpoint_was_trained_for(
    preset: str, order: str, schedule: str
) -> None:
    plan = plan_generation(GenerationRequest("a dog", preset=preset), SQUARE)
    assert (plan.order, str(plan.schedule)) == (order, schedule)
    assert (plan.steps, plan.guidance_scale) == (25, 10.0)


@pytest.mark.parametrize("size", [(48, 80), (64, 64), (80, 48)])
def test_tiny_has_small_sizes(size: tuple[int, int]) -> None:
    plan = plan_generation(GenerationRequest("a ball"), size)
    assert (plan.height, plan.width) == size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preset", "huge"),
        ("order", "sideways"),
        ("schedule", "td_f16k4"),
        ("schedule", "td_f16k4f2k2f1k1_g5"),
        ("schedule", "td_f8k1h3w2f1k1_g9"),
        ("schedule", "td_f17k17h34w34f1k1_g9"),
        ("ranking", "luck"),
        ("history_noise", 1.5),
        ("history_noise_mode", "sudden"),
        ("history_guidance", 0.5),
        ("attention", "sparse"),
        ("seconds", 0.0),
        ("seconds", 121.0),
        ("seconds", float("nan")),
        ("steps", 0),
        ("steps", 101),
        ("seed", -1),
        ("seed", 2**32),
        ("guidance_scale", 33.0),
        ("cfg_scale", 0.5),
    ],
)
def test_what_cannot_be_served_names_its_field(field: str, value: Any) -> None:
    request = replace(GenerationRequest("a dog", order="forward"), **{field: value})
    with pytest.raises(InvalidRequest) as caught:
        plan_generation(request, SQUARE)
    assert caught.value.field == field
