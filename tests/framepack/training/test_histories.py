import random

import pytest
import torch

from framepack.drift.codebook import Codebook, FitOptions, discretise, fit_codebook
from framepack.errors import InvalidRequest
from framepack.training.examples import Arm, choose
from framepack.training.histories import HistorySettings
from framepack.training.transformer import Corpus


def fitted(corpus: Corpus) -> Codebook:
    return fit_codebook(
        lambda: [clip.latents[None].float() for clip in corpus.clips], FitOptions(8)
    )


def levels(arm: Arm, corpus: Corpus, level: float = 0.5, seed: int = 3) -> list[torch.Tensor]:
    choice = choose(arm, corpus.clips, random.Random(seed), 0.0)
    return [each.latents for each in choice.cut(level, {8: fitted(corpus)}).levels]


def arm(**history: object) -> Arm:
    return Arm("", "forward", 1.0, history=HistorySettings(**history), sections=(3, 3))  # type: ignore[arg-type]


def test_clean_history_draws_nothing(nano_corpus: Corpus) -> None:
    rng, same = random.Random(1), random.Random(1)
    choose(arm(), nano_corpus.clips, rng, 0.1)
    choose(Arm("", "forward", 1.0, sections=(3, 3)), nano_corpus.clips, same, 0.1)
    assert rng.getstate() == same.getstate()


def test_a_codebook_replaces_every_present_pixel(nano_corpus: Corpus) -> None:
    clean = levels(arm(), nano_corpus)
    made = levels(arm(change="codebook", entries=8), nano_corpus)
    codebook = fitted(nano_corpus)
    assert any(not torch.equal(a, b) for a, b in zip(clean, made, strict=True))
    for before, after in zip(clean, made, strict=True):
        assert torch.equal(after, discretise(before, codebook))
        assert torch.equal(before.eq(0).all(), after.eq(0).all())


def test_noise_scales_with_the_target_or_is_constant(nano_corpus: Corpus) -> None:
    clean = levels(arm(), nano_corpus)

    def distance(level: float, **history: object) -> float:
        made = levels(arm(change="noise", **history), nano_corpus, level)
        return sum((a - b).square().sum().item() for a, b in zip(made, clean, strict=True))

    assert distance(0.0, sigma=0.5) == 0.0
    assert distance(0.9, sigma=0.5) > 2 * distance(0.3, sigma=0.5) > 0
    constant = [distance(level, sigma=0.2, mode="constant") for level in (0.1, 0.9)]
    assert constant[0] == constant[1] > 0
    assert distance(0.5) != distance(0.5, sigma=0.5)


def test_absent_history_leaves_the_start_picture(nano_corpus: Corpus) -> None:
    drawn = arm(absent=1.0)
    choice = choose(drawn, nano_corpus.clips, random.Random(0), 0.0)
    example = choice.cut(0.5, {})
    shown = {
        frame: bool(level.latents[:, :, n].any())
        for level, context in zip(example.levels, example.section.context, strict=True)
        for n, frame in enumerate(context.frames)
    }
    assert shown.pop(0)
    assert shown
    assert not any(shown.values())


def test_shares_are_checked() -> None:
    with pytest.raises(InvalidRequest, match=r"history.sigma: must be between 0 and 1, not 1.5"):
        HistorySettings(sigma=1.5)
    with pytest.raises(InvalidRequest, match=r"history.absent"):
        HistorySettings(absent=-0.1)
