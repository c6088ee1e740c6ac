"""The hot loop: what it draws, what it sees, how it stops, and what its options change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from framepack.generation.conditioning import Conditioning
from framepack.generation.history import History, frames_needed, sections_needed
from framepack.generation.orders import ORDERS, Section
from framepack.generation.section import (
    SamplingSettings,
    draw_noise,
    finish_section,
    sample_section,
)
from framepack.generation.seeds import noise_generator
from framepack.generation.stepcache import TeaCache, TeaCacheSettings
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.packing.schedule import parse_schedule
from framepack.verify import golden_conditioning, golden_model

SIZE = (10, 12)
SETTINGS = SamplingSettings(steps=3)


@pytest.fixture(scope="module")
def model() -> PackedHunyuanVideo:
    return golden_model()


@pytest.fixture
def conditioning() -> Conditioning:
    given = golden_conditioning(*SIZE)
    return replace(given, negative=replace(given.prompts[0], text=-given.prompts[0].text))


def sections(n: int = 1, order: str = "inverted") -> tuple[Section, ...]:
    chosen = ORDERS[order]
    return chosen.sections(n, parse_schedule(chosen.default_schedule))


def sampled(
    model: PackedHunyuanVideo,
    conditioning: Conditioning,
    settings: SamplingSettings = SETTINGS,
    section: Section | None = None,
) -> Tensor:
    return finish_section(
        sample_section(
            model,
            conditioning,
            section or sections()[0],
            History(conditioning.start),
            settings,
            noise_generator(7),
        )
    )


def test_the_result_is_fp32_on_the_cpu_and_repeatable(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    first, second = sampled(model, conditioning), sampled(model, conditioning)
    assert first.shape == (1, 16, 9, *SIZE)
    assert (first.dtype, first.device.type) == (torch.float32, "cpu")
    assert torch.equal(first, second)


def test_noise_of_all_sections_comes_from_one_generator_in_order() -> None:
    start = torch.zeros(1, 16, 1, 4, 6)
    one, whole = noise_generator(5), noise_generator(5)
    drawn = [draw_noise(start, 9, one) for _ in range(3)]
    expected = [torch.randn((1, 16, 9, 4, 6), generator=whole) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_a_restored_generator_goes_on_with_the_same_noise() -> None:
    start = torch.zeros(1, 16, 1, 4, 6)
    generator = noise_generator(5)
    draw_noise(start, 9, generator)
    state = generator.get_state()
    expected = draw_noise(start, 9, generator)
    restored = torch.Generator()
    restored.set_state(state)
    assert torch.equal(draw_noise(start, 9, restored), expected)


def test_every_step_is_reported_and_the_last_estimate_is_the_result(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    steps = sample_section(
        model,
        conditioning,
        sections()[0],
        History(conditioning.start),
        SETTINGS,
        noise_generator(7),
    )
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as finished:
            latents = finished.value
            break
    assert [(step.index, step.total) for step in seen] == [(0, 3), (1, 3), (2, 3)]
    assert torch.equal(seen[-1].estimate, latents)


def test_a_closed_sampling_evaluates_no_further(conditioning: Conditioning) -> None:
    model = golden_model()
    calls = []
    model.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    steps = sample_section(
        model,
        conditioning,
        sections()[0],
        History(conditioning.start),
        SETTINGS,
        noise_generator(7),
    )
    next(steps)
    steps.close()
    assert len(calls) == 1


@pytest.mark.parametrize(("cfg_scale", "evaluations"), [(1.0, 3), (2.0, 6)])
def test_real_guidance_evaluates_a_second_branch(
    conditioning: Conditioning, cfg_scale: float, evaluations: int
) -> None:
    model = golden_model()
    calls = []
    model.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    sampled(model, conditioning, replace(SETTINGS, cfg_scale=cfg_scale))
    assert len(calls) == evaluations


def test_real_guidance_moves_away_from_the_negative_prompt(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    """With one step the result is linear in the two branches."""
    once = SamplingSettings(steps=1)
    positive = sampled(model, conditioning, once)
    swapped = replace(conditioning, prompts=(conditioning.negative,), negative=None)  # type: ignore[arg-type]
    negative = sampled(model, swapped, once)
    guided = sampled(model, conditioning, replace(once, cfg_scale=3.0))
    assert torch.allclose(guided, negative + 3.0 * (positive - negative), atol=1e-4)


def test_guidance_without_a_negative_prompt_is_an_error(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    with pytest.raises(ValueError, match="negative"):
        sampled(model, replace(conditioning, negative=None), replace(SETTINGS, cfg_scale=2.0))


class TestTeaCache:
    def test_first_and_last_step_run_and_skips_are_counted(self) -> None:
        cache, signal, runs = TeaCache(threshold=1e9, steps=5), torch.ones(1, 2, 3), []

        def step(number: int) -> Tensor:
            target = torch.full((1, 2, 3), float(number))

            def blocks() -> Tensor:
                runs.append(1)
                return target + 2.0

            return cache(target, signal, blocks)

        outs = [step(number) for number in range(5)]
        assert len(runs) == 2
        assert cache.skipped == 3
        assert [out[0, 0, 0].item() for out in outs] == [2.0, 3.0, 4.0, 5.0, 6.0]

    def test_a_threshold_of_nothing_never_skips(
        self, model: PackedHunyuanVideo, conditioning: Conditioning
    ) -> None:
        never = replace(SETTINGS, step_cache=TeaCacheSettings(0.0))
        # Adding and subtracting the cached residual is the only difference.
        assert torch.equal(sampled(model, conditioning, never), sampled(model, conditioning))

    def test_each_branch_has_its_own_state(
        self, model: PackedHunyuanVideo, conditioning: Conditioning
    ) -> None:
        """Equal branches skip alike and guidance changes nothing; shared state would."""
        equal = replace(conditioning, negative=conditioning.prompts[0])
        cached = SamplingSettings(steps=6, step_cache=TeaCacheSettings(32.0))
        plain = sampled(model, equal, cached)
        guided = sampled(model, equal, replace(cached, cfg_scale=5.0))
        assert torch.allclose(plain, guided, atol=1e-5)


class TestHistory:
    def test_absent_frames_are_zeros(self) -> None:
        history = History(torch.ones(1, 16, 1, 4, 4))
        found = history.frames([-3, 0, 5])
        assert found.shape == (1, 16, 3, 4, 4)
        assert found.mean(dim=(0, 1, 3, 4)).tolist() == [0.0, 1.0, 0.0]

    def test_only_what_is_kept_is_held(self) -> None:
        history = History(torch.ones(1, 16, 1, 4, 4))
        history.add(range(1, 10), torch.ones(1, 16, 9, 4, 4))
        history.keep([3, 4])
        assert len(history) == 3
        assert history.frames([2, 3]).mean(dim=(0, 1, 3, 4)).tolist() == [0.0, 1.0]

    def test_numbers_and_frames_must_agree(self) -> None:
        with pytest.raises(ValueError, match="2 numbers for 9"):
            History(torch.ones(1, 16, 1, 4, 4)).add([1, 2], torch.ones(1, 16, 9, 4, 4))

    @pytest.mark.parametrize("order", ["inverted", "forward"])
    def test_a_section_needs_a_bounded_number_of_others(self, order: str) -> None:
        """Nineteen frames of context lie in at most three sections, however long the video."""
        chosen = sections(40, order)
        for section in chosen:
            needed = sections_needed(section, chosen)
            assert len(needed) <= 3
            assert all(other.index < section.index for other in needed)
            existing = {0}.union(*(other.frames for other in chosen[: section.index]))
            covered = {0}.union(*(other.frames for other in needed))
            assert frames_needed(section) & existing <= covered
