"""Training must show the model exactly what generation would."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framepack.drift.codebook import Codebook
from framepack.errors import InvalidRequest
from framepack.generation.conditioning import Conditioning, Prompt
from framepack.generation.history import History
from framepack.generation.orders import ORDERS
from framepack.generation.section import SamplingSettings, sample_section
from framepack.generation.seeds import noise_generator
from framepack.models.base import LevelLatents, StepCache, TextCondition
from framepack.training.cache import CachedClip
from framepack.training.examples import Arm, choose, choose_batch, collate, cut
from framepack.training.transformer import Corpus

Seen = tuple[list[LevelLatents], Tensor, tuple[int, int], TextCondition]


@dataclass
class Truthful:
    """A model that notes what it is shown and whose every section is the clip's."""

    clip: CachedClip
    frames: tuple[int, ...] = ()
    seen: list[Seen] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def prepare(
        self,
        levels: Sequence[LevelLatents],
        positions: Tensor,
        size: tuple[int, int],
        condition: TextCondition,
        guidance_scale: float,
        causal_block: int | None = None,
    ) -> None:
        assert guidance_scale == 10.0
        assert causal_block is None
        self.seen.append((list(levels), positions, size, condition))

    def predict(
        self, latents: Tensor, timestep: Tensor, prepared: None, cache: StepCache | None = None
    ) -> Tensor:
        truth = self.clip.frames(self.frames)
        return (latents - truth) / (timestep / 1000)


def generate(
    clip: CachedClip, arm: Arm, num_sections: int, pictured: bool, codebook: Codebook | None
) -> list[Seen]:
    """What a model is shown while a video is generated that turns out to be the clip."""
    prompts = (Prompt(clip.prompt.text, clip.prompt.pooled),)
    if pictured:
        model, conditioning = Truthful(clip), Conditioning(prompts, None, clip.image, clip.start)
    else:
        model = Truthful(later_by_one(clip))
        zeros = torch.zeros_like(clip.image), torch.zeros_like(clip.start)
        conditioning = Conditioning(prompts, None, *zeros)
    history, generator = History(conditioning.start), noise_generator(0)
    settings = SamplingSettings(steps=1, sampler="unipc_bh1", codebook=codebook)
    for section in arm.plan(num_sections, pictured=pictured):
        model.frames = section.frames
        steps = sample_section(model, conditioning, section, history, settings, generator)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                history.add(section.frames, done.value)
                break
    return model.seen


def later_by_one(clip: CachedClip) -> CachedClip:
    """A clip whose frame 1 is this one's first, and that has no frame 0."""
    nothing = torch.full_like(clip.latents[:, :1], torch.nan)
    return replace(clip, latents=torch.cat([nothing, clip.latents], dim=1))


@pytest.mark.parametrize(
    ("order", "schedule", "discretised", "pictured"),
    [
        *((o, None, discretised, True) for o in sorted(ORDERS) for discretised in (False, True)),
        *((name, None, False, False) for name, o in ORDERS.items() if not o.needs_picture),
        ("vanilla", "ta_f1k2f1k1_g9", False, True),
        ("vanilla", "ta_f1k2f1k1_g9", True, False),
        ("inverted", "f1k1_x_g9_f1k1f1k2_tc", True, True),
    ],
)
def test_training_sees_what_generation_sees(
    order: str, schedule: str | None, discretised: bool, pictured: bool, nano_corpus: Corpus
) -> None:
    clip = nano_corpus.clips[0]
    arm = Arm("", order, 1.0, schedule)
    entries = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    codebook = Codebook(entries) if discretised else None
    for num_sections in (1, 2, 3):
        sections = arm.plan(num_sections, pictured=pictured)
        generated = generate(clip, arm, num_sections, pictured, codebook)
        assert len(generated) == len(sections)
        for index, (levels, positions, size, condition) in enumerate(generated):
            example = cut(clip, sections, index, pictured=pictured, codebook=codebook)
            batch = collate([example], nano_corpus.uncaptioned)
            assert torch.equal(batch.positions, positions)
            assert batch.target.shape[-2:] == size
            assert [level.kernel for level in batch.levels] == [level.kernel for level in levels]
            for trained, shown in zip(batch.levels, levels, strict=True):
                assert torch.equal(trained.positions, shown.positions)
                assert trained.pooled == shown.pooled
                torch.testing.assert_close(trained.latents, shown.latents, rtol=0, atol=2e-5)
            assert torch.equal(batch.condition.text, condition.text)
            assert torch.equal(batch.condition.image, condition.image)
            assert batch.condition.mask is None


def test_what_is_not_made_yet_is_zeros(nano_corpus: Corpus) -> None:
    clip, arm = nano_corpus.clips[0], Arm("", "inverted", 1.0)
    first, second, _ = (cut(clip, arm.plan(3), index) for index in range(3))
    present = [
        [bool(level.latents[:, :, n].any()) for n in range(level.latents.shape[2])]
        for level in first.levels
    ]
    assert sum(map(sum, present)) == 1  # the start picture alone
    assert torch.equal(second.levels[-1].latents, clip.frames([19]))
    assert torch.equal(first.target, clip.frames(range(19, 28)))
    start = next(level for level in first.levels if 0 in level.positions)
    assert torch.equal(start.latents, clip.start)


def test_a_batch_mixes_lengths_of_videos_and_of_captions(nano_corpus: Corpus) -> None:
    arm, rng = Arm("", "inverted", 1.0), random.Random(0)
    examples = [choose(arm, nano_corpus.clips, rng, dropout=0.3).cut(0.5, {}) for _ in range(24)]
    batch = collate(examples, nano_corpus.uncaptioned)
    assert len({tuple(row.tolist()) for row in batch.positions}) == 3
    assert batch.condition.mask is not None
    lengths = batch.condition.mask.sum(1).tolist()
    empty = nano_corpus.uncaptioned.text.shape[1]
    for example, length in zip(examples, lengths, strict=True):
        told = example.clip.prompt.text.shape[1]
        assert length == (told if example.captioned else empty)
    assert 2 <= lengths.count(empty) <= 14


def test_a_share_of_an_arm_has_no_picture(nano_corpus: Corpus) -> None:
    arm, rng = Arm("", "vanilla", 1.0, without_picture=0.5), random.Random(0)
    choices = [choose(arm, nano_corpus.clips, rng, 0.0) for _ in range(40)]
    assert 10 <= sum(choice.pictured for choice in choices) <= 30
    batch = collate([choice.cut(0.5, {}) for choice in choices], nano_corpus.uncaptioned)
    for row, choice in enumerate(choices):
        frames = choice.sections[choice.index].frames
        truth = choice.clip.frames([f - (not choice.pictured) for f in frames])
        assert torch.equal(batch.target[row : row + 1], truth)
        assert bool(batch.condition.image[row].any()) is choice.pictured
    tailed = replace(arm, schedule="ta_f1k2f1k1_g9")
    for _ in range(6):
        batch_choices = choose_batch(tailed, nano_corpus.clips, rng, 0.0, 4)
        assert len({choice.pictured for choice in batch_choices}) == 1
        collate([choice.cut(0.5, {}) for choice in batch_choices], nano_corpus.uncaptioned)


def test_without_the_share_the_draws_are_as_before(nano_corpus: Corpus) -> None:
    """A run that is gone on with must meet the examples it would have met."""
    drawn = [
        choose(Arm("", "vanilla", 1.0, without_picture=share), nano_corpus.clips, rng, 0.5)
        for share, rng in ((0.0, random.Random(5)), (1.0, random.Random(5)))
    ]
    rng = random.Random(5)
    clip = rng.choice(nano_corpus.clips)
    count = rng.randint(1, 3)
    assert drawn[0].clip is clip
    assert [len(drawn[0].sections), drawn[0].index] == [count, rng.randrange(count)]
    assert not drawn[1].pictured


@pytest.mark.parametrize(
    ("order", "share", "way_out"),
    [("vanilla", 1.5, "0 to 1"), ("inverted", 0.5, "towards a start picture")],
)
def test_a_share_that_cannot_be_is_refused(order: str, share: float, way_out: str) -> None:
    with pytest.raises(InvalidRequest, match=way_out):
        Arm("", order, 1.0, without_picture=share)


def test_an_arm_can_ask_for_the_section_that_sees_least(nano_corpus: Corpus) -> None:
    rng = random.Random(0)
    drawn = {
        pick: {
            choose(Arm("", "forward", 1.0, pick=pick), nano_corpus.clips, rng, 0.0)
            .cut(0.5, {})
            .section.frames[0]
            for _ in range(20)
        }
        for pick in ("any", "first")
    }
    assert drawn == {"any": {1, 10, 19}, "first": {1}}


def test_moving_cells_weigh_more(nano_corpus: Corpus) -> None:
    latents = torch.zeros(16, 9, 8, 8)
    latents[:, 5, 2, 3] = 1.0
    clip = replace(nano_corpus.clips[0], latents=latents.half(), motion_weight=4.0)
    weights = clip.weights(range(9))
    assert weights.mean() == pytest.approx(1, abs=0.01)
    expected = torch.ones(1, 1, 9, 8, 8)
    expected[0, 0, 5, 2, 3] = 5.0
    torch.testing.assert_close(weights / weights.min(), expected, rtol=1e-2, atol=0)


def test_no_arm_reads_beyond_its_clip(nano_corpus: Corpus, tmp_path: Path) -> None:
    rng = random.Random(1)
    for order in ORDERS:
        arm = Arm("", order, 1.0)
        for _ in range(10):
            example = choose(arm, nano_corpus.clips, rng, 0.0).cut(0.5, {})
            assert max(example.section.frames) < nano_corpus.clips[0].num_frames


def test_a_batch_of_an_arm_with_a_tail_shares_one_section(nano_corpus: Corpus) -> None:
    arm = Arm("", "vanilla", 1.0, "ta_f1k2f1k1_g9")
    short = replace(nano_corpus.clips[0], latents=nano_corpus.clips[0].latents[:, :19])
    clips, seen = [*nano_corpus.clips, short], set()
    for seed in range(12):
        choices = choose_batch(arm, clips, random.Random(seed), 0.1, 5)
        batch = collate([choice.cut(0.5, {}) for choice in choices], nano_corpus.uncaptioned)
        assert batch.target.shape[0] == 5
        seen.add((len(choices[0].sections), choices[0].index))
        assert all(level.latents.shape[0] == 5 for level in batch.levels)
    assert seen == {(1, 0), (2, 0), (2, 1)}  # as long as the shortest clip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"order": "sideways"}, "no order 'sideways'; choose from inverted"),
        ({"order": "forward", "sections": (0, 2)}, r"not 0 \.\. 2"),
        ({"order": "forward", "share": 0.0}, "above 0, not 0"),
        ({"order": "forward", "schedule": "f1k1_x_g9_f1k1_td"}, "context before"),
        ({"order": "vanilla", "schedule": "td_f16k4f2k2f1k1_g9+D"}, "history.change"),
    ],
)
def test_an_arm_that_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Arm(**{"name": "a", "share": 1.0, **settings})
