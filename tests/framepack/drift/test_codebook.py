from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile

from framepack.drift import codebook as module
from framepack.drift.codebook import (
    Codebook,
    FitOptions,
    discretise,
    fit_codebook,
    nearest_entries,
)
from framepack.errors import WeightsError
from tests.reference.codebook import literal_discretise

CENTRES = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [-4, -4, -4]])


def clusters(seed: int, frames: int = 3) -> torch.Tensor:
    """(1, 3, frames, 8, 8) latents around four centres."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(4, (frames, 8, 8), generator=generator)
    pixels = CENTRES[chosen] + 0.1 * torch.randn(frames, 8, 8, 3, generator=generator)
    return pixels.permute(3, 0, 1, 2)[None]


def data() -> Iterator[torch.Tensor]:
    return (clusters(seed) for seed in range(6))


def test_replacement_is_the_literal_equation() -> None:
    latents = torch.randn(1, 3, 2, 5, 4)
    entries = torch.randn(7, 3)
    assert torch.equal(discretise(latents, Codebook(entries)), literal_discretise(latents, entries))


def test_a_fit_finds_the_clusters() -> None:
    entries = fit_codebook(data, FitOptions(size=4, batch=50)).entries
    nearest = torch.cdist(CENTRES, entries).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3]
    assert nearest.values.max() < 0.05


def test_more_passes_and_small_batches_come_near_the_best_means() -> None:
    pixels = torch.cat([x.movedim(1, -1).flatten(0, -2) for x in data()])
    entries = fit_codebook(data, FitOptions(size=4, batch=64, passes=4)).entries
    best = torch.stack([pixels[(pixels - c).norm(dim=1) < 2].mean(0) for c in CENTRES])
    loss = (pixels - entries[nearest_entries(pixels, entries)]).square().sum()
    ideal = (pixels - best[nearest_entries(pixels, best)]).square().sum()
    assert loss < 1.01 * ideal


def test_the_seed_decides() -> None:
    options = FitOptions(size=16, candidates=200)
    first, again = fit_codebook(data, options), fit_codebook(data, options)
    assert torch.equal(first.entries, again.entries)
    other = fit_codebook(data, FitOptions(size=16, candidates=200, seed=1))
    assert not torch.equal(first.entries, other.entries)


def test_one_entry_leaves_one_colour() -> None:
    """No drift because no memory: every history looks the same."""
    codebook = fit_codebook(data, FitOptions(size=1))
    everything = torch.cat([x.movedim(1, -1).flatten(0, -2) for x in data()])
    torch.testing.assert_close(codebook.entries[0], everything.mean(0), atol=0.02, rtol=0)
    assert torch.equal(discretise(clusters(90), codebook), discretise(clusters(91), codebook))


def test_more_entries_change_the_history_less_and_all_of_them_not_at_all() -> None:
    latents = clusters(0)
    errors = []
    for size in (1, 2, 4, 32, 192):
        codebook = fit_codebook(lambda: [latents], FitOptions(size=size))
        errors.append(float((discretise(latents, codebook) - latents).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10, "as many entries as pixels"


def test_absent_frames_stay_absent_and_are_not_fitted() -> None:
    latents = clusters(0)
    padded = torch.cat([torch.zeros(1, 3, 2, 8, 8), latents], dim=2)
    options = FitOptions(size=4)
    codebook = fit_codebook(lambda: [padded], options)
    assert torch.equal(codebook.entries, fit_codebook(lambda: [latents], options).entries)
    replaced = discretise(padded, codebook)
    assert not replaced[:, :, :2].any()
    assert torch.equal(replaced[:, :, 2:], discretise(latents, codebook))
    assert not discretise(torch.zeros(1, 3, 2, 8, 8), codebook).any()


def test_dtype_and_layout_are_kept() -> None:
    replaced = discretise(clusters(0).bfloat16(), Codebook(CENTRES))
    assert replaced.dtype == torch.bfloat16
    assert replaced.shape == (1, 3, 3, 8, 8)
    assert replaced.is_contiguous()


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, entries = torch.randn(1000, 16), torch.randn(128, 16)
    whole = nearest_entries(pixels, entries)
    monkeypatch.setattr(module, "BLOCK_DISTANCES", 128 * 7)
    assert torch.equal(nearest_entries(pixels, entries), whole)


def test_distances_are_never_held_at_once() -> None:
    """1000 s of 480p history hold 47 M pixels; the largest tensor is a block of distances."""
    pixels, entries = torch.randn(200_000, 16), torch.randn(128, 16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        nearest_entries(pixels, entries)
    largest = max(event.self_cpu_memory_usage for event in run.events() or ())
    assert 0 < largest <= 4 * module.BLOCK_DISTANCES < 4 * pixels.shape[0] * 128


def test_it_is_stored_with_how_it_was_made(tmp_path: Path) -> None:
    codebook = fit_codebook(data, FitOptions(size=4, seed=5))
    codebook.save(tmp_path / "book.safetensors")
    loaded = Codebook.load(tmp_path / "book.safetensors")
    assert torch.equal(loaded.entries, codebook.entries)
    assert loaded.metadata == codebook.metadata
    assert '"seed": 5' in loaded.metadata["fit"]


def test_what_is_no_codebook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        Codebook.load(tmp_path / "absent.safetensors")
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        Codebook.load(tmp_path / "other.safetensors")


def test_too_little_data_is_refused() -> None:
    with pytest.raises(ValueError, match="192 latent pixels cannot make 193"):
        fit_codebook(lambda: [clusters(0)], FitOptions(size=193))
