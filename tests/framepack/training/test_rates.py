import pytest

from framepack.training.rates import RateSchedule


def test_a_rate_rises_stays_and_falls() -> None:
    rates = RateSchedule(steps=100, warmup=10, hold=0.5, final=0.1)
    assert rates.at(0) == pytest.approx(0.1)
    assert rates.at(9) == 1
    assert rates.at(50) == 1
    assert rates.at(75) == pytest.approx(0.55)
    assert rates.at(100) == pytest.approx(0.1)
    assert rates.at(1000) == pytest.approx(0.1)


def test_a_cosine_falls_slowly_at_first() -> None:
    linear = RateSchedule(100, warmup=0, hold=0.0, final=0.0)
    cosine = RateSchedule(100, warmup=0, hold=0.0, final=0.0, decay="cosine")
    assert linear.at(0) == cosine.at(0) == 1
    assert cosine.at(10) > linear.at(10)
    assert cosine.at(50) == pytest.approx(0.5)
    assert cosine.at(90) < linear.at(90)
