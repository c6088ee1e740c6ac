import pytest
import torch

from framepack.drift.noise import HistoryNoise, noise_level


def noise_of(history: torch.Tensor, seed: int = 3) -> HistoryNoise:
    return HistoryNoise(history, torch.Generator().manual_seed(seed))


def test_scaled_follows_the_target_and_constant_does_not() -> None:
    assert [noise_level("scaled", 0.5, t) for t in (1.0, 0.4, 0.0)] == [0.5, 0.2, 0.0]
    assert [noise_level("constant", 0.02, t) for t in (1.0, 0.4, 0.0)] == [0.02] * 3
    with pytest.raises(ValueError, match="between 0 and 1"):
        noise_level("scaled", 1.5, 1.0)


def test_history_is_mixed_as_training_latents_are() -> None:
    history = torch.randn(1, 4, 3, 5, 6)
    expected = torch.randn(history.shape, generator=torch.Generator().manual_seed(3))
    noised, levels = noise_of(history).at(0.25)
    torch.testing.assert_close(noised, 0.75 * history + 0.25 * expected)
    assert levels.tolist() == [[0.25] * 3]
    assert torch.equal(noise_of(history).at(0.0)[0], history)
    assert torch.equal(noise_of(history).at(1.0)[0], expected)


def test_the_noise_of_a_section_stays_and_the_seed_decides() -> None:
    history = torch.randn(1, 4, 3, 5, 6)
    noise = noise_of(history)
    assert torch.equal(noise.at(0.5)[0], noise.at(0.5)[0])
    assert torch.equal(noise.at(0.5)[0], noise_of(history).at(0.5)[0])
    assert not torch.equal(noise.at(0.5)[0], noise_of(history, seed=4).at(0.5)[0])


def test_absent_frames_stay_absent_and_do_not_shift_the_noise() -> None:
    history = torch.randn(1, 4, 3, 5, 6)
    gap = history.clone()
    gap[:, :, 1] = 0
    noised, levels = noise_of(gap).at(0.5)
    assert not noised[:, :, 1].any()
    assert levels.tolist() == [[0.5, 0.0, 0.5]]
    assert torch.equal(noised[:, :, 2], noise_of(history).at(0.5)[0][:, :, 2])
