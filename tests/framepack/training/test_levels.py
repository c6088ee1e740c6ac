import math

import pytest
import torch

from framepack.errors import InvalidRequest
from framepack.generation.sigmas import shift_exponent, shifted_sigmas
from framepack.training.levels import NoiseLevels, shifted

MANY = 20_000


def draw(levels: NoiseLevels, count: int = MANY, tokens: int = 256) -> torch.Tensor:
    return levels.draw(count, torch.Generator().manual_seed(0), tokens)


def test_noise_levels_shift_as_in_sampling() -> None:
    uniform = torch.linspace(0, 1, 5)
    assert torch.equal(shifted(uniform, 1.0), uniform)
    sampled = shifted_sigmas(4, shift_exponent(576)).flip(0)
    torch.testing.assert_close(shifted(uniform, math.exp(shift_exponent(576))), sampled)


def test_the_default_is_uniform_shifted_by_two() -> None:
    levels = draw(NoiseLevels())
    u = torch.rand(MANY, generator=torch.Generator().manual_seed(0))
    assert torch.equal(levels, 2 * u / (1 + u))


def test_logit_normal_has_its_mean_and_deviation() -> None:
    logits = torch.logit(draw(NoiseLevels("logit_normal", mean=-0.5, deviation=0.8, shift=1.0)))
    assert logits.mean().item() == pytest.approx(-0.5, abs=0.03)
    assert logits.std().item() == pytest.approx(0.8, abs=0.03)
    moved = torch.logit(draw(NoiseLevels("logit_normal", shift=3.0)))
    assert moved.mean().item() == pytest.approx(math.log(3.0), abs=0.03)


def test_sampling_shift_follows_the_tokens() -> None:
    levels = NoiseLevels(shift="sampling")
    assert draw(levels, tokens=4096).median() > draw(levels, tokens=256).median() + 0.1


def test_levels_stay_in_their_range_and_strata_cover_it() -> None:
    levels = NoiseLevels(shift=1.0, least=0.2, most=0.6, stratified=True)
    drawn = draw(levels, count=40).sort().values
    edges = 0.2 + 0.4 * torch.arange(41) / 40
    assert bool((drawn >= edges[:-1]).all())
    assert bool((drawn <= edges[1:]).all())


def test_impossible_ranges_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"0\.7 \.\. 0\.3"):
        NoiseLevels(least=0.7, most=0.3)
    with pytest.raises(InvalidRequest, match="greater than 0"):
        NoiseLevels(shift=0.0)
