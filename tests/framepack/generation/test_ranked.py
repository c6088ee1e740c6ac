"""Similarity and hybrid ranking in the section loop: an early scene that returns is seen again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from framepack.generation.conditioning import Conditioning
from framepack.generation.history import History, frames_needed, sections_needed
from framepack.generation.method import HistoryMethod, Ranking
from framepack.generation.orders import ORDERS, Section, with_candidates
from framepack.generation.ranked import ranked_section
from framepack.generation.section import SamplingSettings, finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.models.base import LevelLatents, StepCache, TextCondition
from framepack.packing.schedule import parse_schedule
from framepack.types import Latents, Positions
from framepack.verify import golden_conditioning
from tests.reference.context import literal_ranking

SIZE = (4, 6)
NAME = "f1k1_x_ta_f4k2f2k1_g9"


def sections(count: int, name: str = NAME, order: str = "forward") -> tuple[Section, ...]:
    return with_candidates(ORDERS[order].sections(count, parse_schedule(name)))


def scene(seed: int) -> Tensor:
    """(1, c, 1, h, w) a still picture."""
    return torch.randn(1, 16, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


def moving(picture: Tensor, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return picture + 0.2 * torch.randn(1, 16, frames, *SIZE, generator=generator)


@pytest.fixture
def history() -> History:
    """Scene A for one section, then scene B for four."""
    held = History(scene(1))
    for section in sections(6)[:5]:
        held.add(section.frames, moving(scene(1 if section.index == 0 else 2), 9, section.index))
    return held


@pytest.mark.parametrize("ranking", ["similarity", "hybrid"])
@pytest.mark.parametrize("estimate", [1, 2])
def test_levels_are_the_literal_ranking(history: History, ranking: Ranking, estimate: int) -> None:
    section, method = sections(6)[5], HistoryMethod(ranking)
    shown = moving(scene(estimate), 3, 9)
    chosen = ranked_section(section, history, method, shown)
    assert section.candidates == tuple(range(1, 46)), "all but the anchor's frame"
    order = literal_ranking(
        {n: history.frames([n])[0, :, 0] for n in section.candidates},
        shown[0],
        section.frames[0],
        method.seconds_per_frame,
        method.time_weight if ranking == "hybrid" else None,
    )
    levels = {(level.role, level.kernel.t): level for level in chosen.context}
    assert levels["pack", 1].frames == tuple(sorted(order[:2]))
    assert levels["pack", 2].frames == tuple(sorted(order[2:6]))
    assert levels["append", 2].frames == tuple(sorted(order[6:]))
    assert levels["anchor", 1].frames == (0,)
    for level in chosen.context:
        if level.role != "anchor":
            distance = section.positions[0] - section.frames[0]
            assert level.positions == tuple(n + distance for n in level.frames)


@dataclass
class Director:
    """A model by hand that always wants one scene next, and remembers what it was shown."""

    wanted: Tensor
    shown: list[Sequence[LevelLatents]] = field(default_factory=list)
    dtype, device = torch.float32, torch.device("cpu")

    def prepare(
        self,
        levels: Sequence[LevelLatents],
        positions: Positions,
        size: tuple[int, int],
        condition: TextCondition,
        guidance_scale: float,
        causal_block: int | None = None,
    ) -> None:
        self.shown.append(levels)

    def predict(
        self, latents: Latents, timestep: Tensor, prepared: None, cache: StepCache | None
    ) -> Latents:
        return (latents - self.wanted) / (timestep[0] / 1000)


@pytest.mark.parametrize("ranking", ["similarity", "hybrid"])
def test_a_scene_that_returns_is_promoted_to_the_finest_level(
    history: History, ranking: Ranking
) -> None:
    """Scene B fills the near past; the model wants A again, and is shown A's frames finely."""
    director = Director(scene(1))
    settings = SamplingSettings(steps=2, history=HistoryMethod(ranking))
    conditioning = golden_conditioning(*SIZE)
    section = sections(6)[5]
    made = finish_section(
        sample_section(director, conditioning, section, history, settings, noise_generator(1))
    )
    by_time, by_importance = director.shown
    finest = by_importance[-1].latents
    assert finest.shape[2] == 2
    expected = scene(1).expand_as(finest)
    assert torch.cosine_similarity(finest, expected, dim=1).mean() > 0.9
    finest_by_time = by_time[-1].latents
    assert torch.cosine_similarity(finest_by_time, expected, dim=1).mean() < 0.3
    torch.testing.assert_close(made, scene(1).expand_as(made), atol=1e-4, rtol=0)


def test_ranking_draws_nothing(history: History) -> None:
    conditioning: Conditioning = golden_conditioning(*SIZE)
    states = []
    for ranking in ("time", "hybrid"):
        generator = noise_generator(4)
        settings = SamplingSettings(steps=1, history=HistoryMethod(ranking))
        chosen = sections(6)[5]
        finish_section(
            sample_section(Director(scene(2)), conditioning, chosen, history, settings, generator)
        )
        states.append(generator.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("order", ORDERS)
def test_a_ranked_section_needs_all_that_is_made_and_nothing_else(order: str) -> None:
    made = sections(5, ORDERS[order].default_schedule, order)
    for section in made:
        earlier = [other for other in made if other.index < section.index]
        known = {0, *(n for other in earlier for n in other.frames)}
        anchors = {n for lv in section.context if lv.role == "anchor" for n in lv.frames}
        assert set(section.candidates) == known - anchors
        assert set(section.candidates) <= frames_needed(section)
        assert sections_needed(section, made) == earlier
