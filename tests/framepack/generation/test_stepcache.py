"""MagCache by the sums of its paper, and what it is calibrated with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from framepack.errors import WeightsError
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.generation.stepcache import (
    Calibration,
    MagCache,
    MagCacheSettings,
    StepCacheFactory,
    TeaCacheSettings,
)
from framepack.models.base import StepCache
from framepack.presets import load_preset


def runs_of(cache: StepCache, steps: int) -> list[int]:
    """In which steps the blocks ran; each adds its number, so residuals are told apart."""
    target, ran = torch.zeros(1, 2, 3), []
    for step in range(steps):

        def blocks(step: int = step) -> torch.Tensor:
            ran.append(step)
            return target + step + 1

        out = cache(target, target, blocks)
        assert torch.equal(out, target + ran[-1] + 1), "a skip repeats the last residual"
    assert cache.skipped == steps - len(ran)
    return ran


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # |1 - .98| + |1 - .98^2| = 0.0596, and with .98^3 0.118.
        (MagCacheSettings((1.0, *[0.98] * 9), error=0.06, most=9), [0, 1, 4, 7, 9]),
        (MagCacheSettings((1.0, *[0.98] * 9), error=0.12, most=9), [0, 1, 5, 9]),
        (MagCacheSettings((1.0, *[0.98] * 9), error=9.0, most=1), [0, 1, 3, 5, 7, 9]),
        (MagCacheSettings((1.0, *[0.98] * 9), error=0.0), list(range(10))),
        (MagCacheSettings((1.0, *[0.98] * 9), error=9.0, most=9, retained=0.5), [0, 1, 2, 3, 4, 9]),
        (MagCacheSettings((1.0, *[0.5] * 9), error=0.12, most=9), list(range(10))),
    ],
)
def test_magnitudes_decide_which_steps_run(settings: MagCacheSettings, expected: list[int]) -> None:
    assert runs_of(settings(10), 10) == expected
    assert runs_of(settings(10), 10) == expected, "a section's cache knows nothing of another's"


def test_other_numbers_of_steps_read_the_same_curve() -> None:
    """Half as many steps change the magnitude twice as much each."""
    cache = MagCache(MagCacheSettings((1.0, *[0.98] * 18), error=0.12, most=9), 10)
    coarse = MagCacheSettings((1.0, *[0.98**2] * 9), error=0.12, most=9)
    assert runs_of(cache, 10) == runs_of(coarse(10), 10)


def test_calibration_finds_how_magnitudes_change(tmp_path: Path) -> None:
    found = Calibration()
    for factor in (1.0, 3.0):  # two sections, whose scale does not matter
        cache, target = found(3), torch.ones(1, 2, 3)
        for size in (4.0, 2.0, 1.5):
            out = target + size * factor
            cache(target, target, partial(torch.clone, out))
        assert cache.skipped == 0
    assert found.ratios == (1.0, 0.5, 0.75)
    found.write(tmp_path / "magcache.json")
    assert MagCacheSettings.read(tmp_path / "magcache.json", 0.1, 2).ratios == found.ratios


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ratios": "many"}', '{"ratios": [null]}'])
def test_a_file_without_ratios_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "magcache.json").write_text(text)
    with pytest.raises(WeightsError, match="holds no ratios"):
        MagCacheSettings.read(tmp_path / "magcache.json", 0.1, 2)


def test_shipped_weights_bring_their_magnitudes_and_others_take_teacache(nano_folder: Path) -> None:
    def caches(weights: Path | None) -> list[StepCacheFactory | None]:
        models = load_preset("tiny", weights, "cpu")
        return [models.step_cache(quality) for quality in ("exact", "standard", "draft")]

    exact, standard, draft = caches(None)
    assert exact is None
    assert isinstance(standard, MagCacheSettings)
    assert isinstance(draft, MagCacheSettings)
    steps = plan_generation(GenerationRequest("a"), (64, 64)).steps
    skipped = []
    for settings in (standard, draft):
        cache = settings(steps)
        skipped.append(steps - len(runs_of(cache, steps)))
    assert 0 < skipped[0] < skipped[1] < steps
    assert caches(nano_folder) == [None, TeaCacheSettings(0.10), TeaCacheSettings(0.15)]
