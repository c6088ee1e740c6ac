import numpy as np
import pytest

from framepack.evaluation.statistics import (
    bootstrap_interval,
    summarise_series,
    summarise_values,
)


def test_a_series_is_summarised_by_its_edges() -> None:
    falling = np.linspace(30, 20, 100)
    figures = summarise_series([falling, falling + 2])
    assert figures["start"] == pytest.approx(30.3, abs=0.05)
    assert figures["end"] == pytest.approx(21.7, abs=0.05)
    assert figures["delta"] == pytest.approx(8.6, abs=0.05)
    assert figures["min"] == pytest.approx(21.45, abs=0.05)


def test_drift_has_no_sign_but_its_interval_has() -> None:
    rising = np.linspace(20, 30, 100)
    figures = summarise_series([rising, rising])
    assert figures["delta"] == pytest.approx(8.6, abs=0.05)
    assert figures["ci95"] == pytest.approx([-8.6, -8.6], abs=0.05)


def test_what_cannot_be_measured_is_left_out() -> None:
    series = np.array([np.nan] * 30 + [1.0] * 70)
    figures = summarise_series([series, np.ones(100)])
    assert figures["start"] == figures["end"] == figures["min"] == 1
    assert summarise_values([1.0, float("nan"), 3.0])["mean"] == 2
    assert np.isnan(bootstrap_interval(np.array([np.nan]))).all()


def test_the_interval_narrows_with_more_videos() -> None:
    values = np.random.default_rng(1).normal(5, 1, 1000)
    for count in (10, 1000):
        low, high = bootstrap_interval(values[:count])
        assert low < 5 < high
        assert (high - low) == pytest.approx(3.92 / count**0.5, rel=0.5)
