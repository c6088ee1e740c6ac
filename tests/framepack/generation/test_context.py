"""Tails, discretised history, noise and guidance of history, in the one section loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from framepack.drift import noise as drift_noise
from framepack.drift.codebook import Codebook
from framepack.generation import method
from framepack.generation.conditioning import Conditioning
from framepack.generation.context import NoisyContext, context_levels
from framepack.generation.history import History, frames_needed, sections_needed
from framepack.generation.method import HistoryMethod
from framepack.generation.orders import ORDERS, Section
from framepack.generation.section import SamplingSettings, finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.models.base import LevelLatents, StepCache, TextCondition
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.packing.rope import packed_phases
from framepack.packing.schedule import BASE_KERNEL, Kernel, parse_schedule
from framepack.types import Latents, Positions
from framepack.verify import golden_conditioning, golden_model
from tests.reference.codebook import literal_discretise
from tests.reference.context import literal_guidance, literal_tail, literal_tail_phase

SIZE = (10, 12)


@pytest.fixture(scope="module")
def model() -> PackedHunyuanVideo:
    return golden_model()


@pytest.fixture(scope="module")
def conditioning() -> Conditioning:
    return golden_conditioning(*SIZE)


def sections(name: str, count: int, order: str) -> tuple[Section, ...]:
    return ORDERS[order].sections(count, parse_schedule(name))


def full_history(sections: Sequence[Section], until: int, size: tuple[int, int] = SIZE) -> History:
    """Random latents of all sections sampled before one."""
    generator = torch.Generator().manual_seed(1)
    history = History(torch.randn(1, 16, 1, *size, generator=generator))
    for section in sections[:until]:
        frames = len(section.frames)
        history.add(section.frames, torch.randn(1, 16, frames, *size, generator=generator))
    return history


def sampled(
    model: PackedHunyuanVideo,
    conditioning: Conditioning,
    section: Section,
    history: History,
    seed: int = 7,
    **options: object,
) -> Tensor:
    settings = SamplingSettings(steps=2, **options)  # type: ignore[arg-type]
    steps = sample_section(model, conditioning, section, history, settings, noise_generator(seed))
    return finish_section(steps)


@pytest.mark.parametrize(
    ("order", "name", "beyond"),
    [
        ("vanilla", "{}_f4k2f1k1_g9", range(14)),
        ("inverted", "f1k1_x_g9_f1k1f4k2_{}", range(24, 37)),
        ("endpoints", "{}_f4k2f1k1_g9_x_f1k1", range(5)),
    ],
)
@pytest.mark.parametrize("kind", ["ta", "tc"])
def test_a_tail_is_what_lies_beyond_the_pack(
    order: str, name: str, beyond: range, kind: str
) -> None:
    made = sections(name.format(kind), 4, order)
    at = 2
    history = full_history(made, at, (40, 12))
    (level,) = [lv for lv in made[at].context if lv.role in ("append", "compress")]
    assert level.frames == tuple(beyond)
    seen = {lv.frames for lv in made[at].context if lv.role == "pack"}
    assert not {n for frames in seen for n in frames} & set(beyond)
    shown = context_levels(made[at], history)[made[at].context.index(level)]
    expected = literal_tail([history.frames([n])[0, :, 0] for n in beyond], kind)
    torch.testing.assert_close(shown.latents[0], expected)
    distance = made[at].positions[0] - made[at].frames[0]
    places = [n + distance for n in beyond]
    expected_places = places if kind == "ta" else [places[len(places) // 2]]
    assert shown.positions.tolist() == [expected_places]


@pytest.mark.parametrize("order", ["vanilla", "inverted", "endpoints"])
def test_deleted_and_empty_tails_are_no_tokens(order: str) -> None:
    default = ORDERS[order].default_schedule
    kept = default.replace("td", "ta")
    assert all(lv.role != "append" for s in sections(default, 5, order) for lv in s.context)
    tails = [lv.frames for lv in sections(kept, 5, order)[0].context if lv.role == "append"]
    assert tails == ([(0,)] if order == "endpoints" else []), "the picture alone is made already"


def test_a_section_needs_what_its_tail_is_made_of() -> None:
    made = sections("ta_f4k2f1k1_g9", 6, "vanilla")
    assert sections_needed(made[5], made) == list(made[:5])
    bounded = sections("td_f4k2f1k1_g9", 6, "vanilla")
    assert sections_needed(bounded[5], bounded) == [bounded[4]]


def test_a_tails_phases_are_the_mean_over_what_it_covers() -> None:
    frequency, rows, columns = 0.3, 5, 7
    times = [-6, -5, -4, -3, -2, -1]
    t, y, x = torch.meshgrid(
        torch.tensor(times), torch.arange(rows), torch.arange(columns), indexing="ij"
    )
    angles = frequency * (t + y + x)[None, ..., None].float()
    phases = torch.polar(torch.ones_like(angles), angles)
    pooled = packed_phases(phases, Kernel(4, 8, 8), Kernel(1, 32, 32))
    expected = [
        literal_tail_phase(times[:4], rows, columns, frequency),
        literal_tail_phase([-2, -1, -1, -1], rows, columns, frequency),
    ]
    torch.testing.assert_close(pooled[0, :, 0], torch.tensor(expected, dtype=torch.complex64))


@pytest.mark.parametrize("kind", ["ta", "tc"])
def test_a_tail_changes_what_is_generated(
    model: PackedHunyuanVideo, conditioning: Conditioning, kind: str
) -> None:
    kept, deleted = (sections(f"{t}_f4k2f1k1_g9", 4, "vanilla")[3] for t in (kind, "td"))
    history = full_history(sections("td_f4k2f1k1_g9", 4, "vanilla"), 3)
    with_tail = sampled(model, conditioning, kept, history)
    assert with_tail.isfinite().all()
    assert not torch.allclose(with_tail, sampled(model, conditioning, deleted, history))


def test_history_is_replaced_by_codebook_entries() -> None:
    made = sections("tc_f4k2f1k1_g9", 3, "vanilla")
    history, entries = full_history(made, 2), torch.randn(5, 16)
    for level, shown in zip(
        made[2].context, context_levels(made[2], history, Codebook(entries)), strict=True
    ):
        expected = literal_discretise(history.frames(level.frames), entries)
        if level.role == "compress":
            expected = expected.mean((2, 3, 4), keepdim=True)
        torch.testing.assert_close(shown.latents, expected)


def test_one_entry_forgets_and_very_many_change_nothing(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    """The paper's limits of K: no drift, as nothing is remembered, and no discretisation."""
    made = sections("td_f4k2f1k1_g9", 3, "vanilla")
    history, other = full_history(made, 2), History(conditioning.start)
    for section in made[:2]:
        other.add(section.frames, torch.randn(1, 16, 9, *SIZE))
    one = Codebook(torch.zeros(1, 16) + 0.5)
    forgetful = [sampled(model, conditioning, made[2], h, codebook=one) for h in (history, other)]
    assert torch.equal(*forgetful)
    shown = [level.latents for level in context_levels(made[2], history)]
    every_pixel = torch.cat([latents.movedim(1, -1).flatten(0, -2) for latents in shown])
    exact = sampled(model, conditioning, made[2], history, codebook=Codebook(every_pixel))
    assert torch.equal(exact, sampled(model, conditioning, made[2], history))


def test_noise_is_drawn_after_the_sections_own_and_only_if_asked_for(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    made = sections("td_f4k2f1k1_g9", 3, "vanilla")
    history = full_history(made, 2)
    states = []
    for sigma in (0.0, 0.3):
        generator = noise_generator(3)
        settings = SamplingSettings(steps=1, history=HistoryMethod(noise=sigma))
        finish_section(sample_section(model, conditioning, made[2], history, settings, generator))
        states.append(generator.get_state())
    expected = noise_generator(3)
    torch.randn((1, 16, 9, *SIZE), generator=expected)
    assert torch.equal(states[0], expected.get_state())
    for frames in (4, 1):  # the levels, coarsest first
        torch.randn((1, 16, frames, *SIZE), generator=expected)
    assert torch.equal(states[1], expected.get_state())


@pytest.mark.parametrize("mode", method.NOISE_MODES)
def test_noisy_history_is_mixed_by_the_modes_rule(mode: drift_noise.NoiseMode) -> None:
    levels = [LevelLatents(BASE_KERNEL, torch.randn(1, 4, 2, 4, 4), torch.tensor([[0, 1]]))]
    context = NoisyContext(levels, mode, 0.4, noise_generator(1))
    noise = torch.randn(1, 4, 2, 4, 4, generator=noise_generator(1))
    for target in (1.0, 0.25):
        share = 0.4 * target if mode == "scaled" else 0.4
        expected = (1 - share) * levels[0].latents + share * noise
        torch.testing.assert_close(context.at(target)[0].latents, expected)
    assert context.steady == (mode == "constant")
    torch.testing.assert_close(context.drowned().levels[0].latents, noise)
    assert get_args(drift_noise.NoiseMode) == method.NOISE_MODES


class Affine:
    """A model whose velocity is linear in what it sees, by hand: it makes formulas visible."""

    dtype, device = torch.float32, torch.device("cpu")

    def prepare(
        self,
        levels: Sequence[LevelLatents],
        positions: Positions,
        size: tuple[int, int],
        condition: TextCondition,
        guidance_scale: float,
        causal_block: int | None = None,
    ) -> Tensor:
        seen = torch.stack([level.latents.sum() for level in levels]).sum()
        return 0.01 * seen + condition.text.sum()

    def predict(
        self, latents: Latents, timestep: Tensor, prepared: Tensor, cache: StepCache | None
    ) -> Latents:
        return 0.1 * latents + prepared


def velocity(
    conditioning: Conditioning, section: Section, history: History, **how: float
) -> Tensor:
    """What a single step from the first noise level followed."""
    cfg = how.pop("cfg_scale", 1.0)
    settings = SamplingSettings(steps=1, cfg_scale=cfg, history=HistoryMethod(**how))  # type: ignore[arg-type]
    generator = noise_generator(5)
    made = finish_section(
        sample_section(Affine(), conditioning, section, history, settings, generator)
    )
    return torch.randn((1, 16, 9, *SIZE), generator=noise_generator(5)) - made


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_history_guidance_is_dfots(conditioning: Conditioning, noise: float) -> None:
    """Away from absent history, or from drowned history for a model that knows noise."""
    made = sections("td_f4k2f1k1_g9", 3, "vanilla")
    history = full_history(made, 2)
    told = velocity(conditioning, made[2], history, noise=noise)
    null = History(conditioning.start)
    forgetful = velocity(conditioning, made[2], null)
    if noise:
        forgetful = velocity(conditioning, made[2], history, noise=1.0)
    guided = velocity(conditioning, made[2], history, noise=noise, guidance=2.5)
    torch.testing.assert_close(guided, literal_guidance(told, forgetful, 2.5))


def test_history_guidance_adds_to_classifier_free_guidance(conditioning: Conditioning) -> None:
    made = sections("td_f4k2f1k1_g9", 3, "vanilla")
    history = full_history(made, 2)
    prompt = conditioning.prompts[0]
    both = replace(conditioning, negative=replace(prompt, text=-prompt.text))
    plain = velocity(both, made[2], history, cfg_scale=3.0)
    told = velocity(both, made[2], history)
    forgetful = velocity(both, made[2], History(both.start))
    guided = velocity(both, made[2], history, cfg_scale=3.0, guidance=2.0)
    torch.testing.assert_close(guided, plain + told - forgetful)


def test_kernels_beyond_the_checkpoints_are_interpolated(
    model: PackedHunyuanVideo, conditioning: Conditioning
) -> None:
    """k8, k16 and flat kernels run, and the checkpoint's tensors stay the 148 there are."""
    before = set(model.state_dict())
    for name in ("td_f16k16f8k8f4k4f2k2f1k1_g9", "td_f1k1h8w8f1k1h4w2f1k1_g9"):
        made = sections(name, 5, "vanilla")
        latents = sampled(model, conditioning, made[4], full_history(made, 4))
        assert latents.isfinite().all()
    assert set(model.state_dict()) == before


def test_frames_needed_are_all_that_a_section_looks_at() -> None:
    for order, name in [("vanilla", "tc_f4k2f1k1_g9"), ("inverted", "f1k1_x_g9_f1k1f4k2_ta")]:
        for section in sections(name, 5, order):
            seen = {n for level in section.context for n in level.frames}
            assert seen <= frames_needed(section)
