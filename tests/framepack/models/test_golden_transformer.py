"""One forward pass and its parts against numbers of the official implementation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framepack.generation.samplers import sample_unipc
from framepack.generation.sigmas import shift_exponent, shifted_sigmas
from framepack.generation.stepcache import rescale
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.hunyuan_video import PackedHunyuanVideo, PreparedSection
from framepack.packing.rope import pool_phases, rotary_phases
from framepack.packing.schedule import Kernel
from framepack.verify import VALID_TEXT_TOKENS, golden_model, wave

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "transformer.json").read_text()
)
TINY: dict[str, Any] = GOLDEN["tiny"]
SIZE = (10, 12)
TARGET_POSITIONS = torch.tensor([[4, 5, 6]])


def plain_weights(i: Tensor, k: int) -> Tensor:
    return 0.08 * torch.sin(0.37 * i + 1.7 * k)


@pytest.fixture(scope="module")
def model() -> PackedHunyuanVideo:
    return golden_model(plain_weights)


@pytest.fixture(scope="module")
def condition() -> TextCondition:
    text = wave((1, 9, 12), 0.3)[:, :VALID_TEXT_TOKENS]
    return TextCondition(text=text, pooled=wave((1, 8), 0.5), image=wave((1, 5, 10), 1.3))


def levels() -> list[LevelLatents]:
    height, width = SIZE
    return [
        LevelLatents(
            Kernel(4, 8, 8), wave((1, 16, 16, height, width), 1.1), torch.arange(10, 26)[None]
        ),
        LevelLatents(Kernel(2, 4, 4), wave((1, 16, 2, height, width), 0.9), torch.tensor([[8, 9]])),
        LevelLatents(Kernel(1, 2, 2), wave((1, 16, 2, height, width), 0.7), torch.tensor([[0, 7]])),
    ]


@pytest.fixture(scope="module")
def prepared(model: PackedHunyuanVideo, condition: TextCondition) -> PreparedSection:
    return model.prepare(levels(), TARGET_POSITIONS, SIZE, condition, 10.0)


def noisy() -> Tensor:
    return wave((1, 16, 3, *SIZE), 0.1)


def test_the_tiny_layout_has_148_tensors(model: PackedHunyuanVideo) -> None:
    assert len(model.state_dict()) == TINY["n_tensors"]


def test_packed_tokens(model: PackedHunyuanVideo, prepared: PreparedSection) -> None:
    packed = torch.cat([prepared.history, model.x_embedder(noisy())], dim=1)
    assert list(packed.shape) == TINY["packed_shape"]
    assert packed[0, 0, :4].tolist() == pytest.approx(TINY["packed_first4"], abs=1e-4)
    assert packed.double().sum().item() == pytest.approx(TINY["packed_sum"], abs=1e-2)
    assert packed.abs().mean().item() == pytest.approx(TINY["packed_abs_mean"], abs=1e-6)
    assert prepared.phases.shape[1] == TINY["packed_tokens"]


def test_condition_and_refined_text(model: PackedHunyuanVideo, prepared: PreparedSection) -> None:
    timestep = torch.tensor([700.0])
    condition = model.time_text_embed(timestep, prepared.condition.pooled, prepared.guidance)
    refined = model.context_embedder(prepared.condition.text, timestep)
    assert condition[0, :4].tolist() == pytest.approx(TINY["temb_first4"], abs=1e-6)
    assert refined[0, 0, :4].tolist() == pytest.approx(TINY["refiner_row0_first4"], abs=1e-5)


def test_one_forward_pass(model: PackedHunyuanVideo, prepared: PreparedSection) -> None:
    out = model.predict(noisy(), torch.tensor([700.0]), prepared)
    assert list(out.shape) == TINY["out_shape"]
    assert out.mean().item() == pytest.approx(TINY["out_mean"], abs=1e-6)
    assert out.abs().mean().item() == pytest.approx(TINY["out_abs_mean"], abs=1e-6)
    assert out.flatten()[:8].tolist() == pytest.approx(TINY["out_first8"], abs=1e-5)
    assert out.flatten()[-4:].tolist() == pytest.approx(TINY["out_last4"], abs=1e-5)


def test_a_forward_pass_without_history(
    model: PackedHunyuanVideo, condition: TextCondition
) -> None:
    prepared = model.prepare([], TARGET_POSITIONS, SIZE, condition, 10.0)
    out = model.predict(noisy(), torch.tensor([700.0]), prepared)
    assert out.abs().mean().item() == pytest.approx(TINY["out_nohist_abs_mean"], abs=1e-6)
    assert out.flatten()[:4].tolist() == pytest.approx(TINY["out_nohist_first4"], abs=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_five_sampler_steps(condition: TextCondition, dtype: str, tolerance: float) -> None:
    """In bf16 the implementations round at different places and agree to its precision."""
    golden = TINY[f"sample5_{dtype}"]
    run_dtype: torch.dtype = getattr(torch, dtype)
    model = golden_model(plain_weights).to(run_dtype)
    prepared = model.prepare(levels(), TARGET_POSITIONS, SIZE, condition, 10.0)
    generator = torch.Generator().manual_seed(31337)
    noise = torch.randn((1, 16, 3, *SIZE), generator=generator)

    def denoise(latents: Tensor, sigma: Tensor) -> Tensor:
        rounded = latents.to(run_dtype)
        timestep = (sigma * 1000).to(run_dtype)[None]
        return rounded.float() - sigma * model.predict(rounded, timestep, prepared)

    exponent = shift_exponent(3 * 5 * 6)
    assert math.exp(exponent) == pytest.approx(TINY["mu_shift_used"], abs=1e-6)
    sigmas = shifted_sigmas(5, exponent)
    *_, last = sample_unipc(denoise, noise, sigmas)
    result = last.estimate.float()
    assert result.abs().mean().item() == pytest.approx(golden["abs_mean"], abs=tolerance / 10)
    assert result.flatten()[:4].tolist() == pytest.approx(golden["first4"], abs=tolerance)


def test_noise_levels_of_the_released_models() -> None:
    assert shifted_sigmas(25, shift_exponent(13_680)).tolist() == pytest.approx(
        GOLDEN["sigmas_25_ln7"], abs=1e-6
    )


@pytest.mark.parametrize("case", sorted(GOLDEN["unipc_toy"]))
def test_unipc_on_a_toy(case: str) -> None:
    golden, (variant, steps) = GOLDEN["unipc_toy"][case], case.split("_")
    calls = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return torch.sin(x) + 0.1 * sigma

    sigmas = shifted_sigmas(int(steps), torch.tensor(7.0).log().item())
    one = torch.ones(1, 1, 1, 1, 1)
    *_, last = sample_unipc(denoise, one, sigmas, variant="bh2" if variant == "bh2" else "bh1")
    assert last.estimate.item() == pytest.approx(golden["result"], abs=1e-6)
    assert last.latents.item() == pytest.approx(golden["x_after"], abs=1e-6)
    assert len(calls) == golden["n_calls"]
    assert calls[-1] == pytest.approx(golden["last_sigma"], abs=1e-6)


def _official_layout(phases: Tensor) -> Tensor:
    """Cosines then sines, each doubled onto the two channels of a pair: (256, t, h, w)."""
    doubled = [part.repeat_interleave(2, dim=-1) for part in (phases.real, phases.imag)]
    return torch.cat(doubled, dim=-1)[0].permute(3, 0, 1, 2)


def released_phases(positions: Tensor, height: int, width: int) -> Tensor:
    return rotary_phases(positions[None], height, width, (16, 56, 56), 256.0)


def test_rotary_phases() -> None:
    official = _official_layout(released_phases(torch.tensor([2, 3]), 4, 6))
    assert list(official.shape) == GOLDEN["rope_shape"][1:]
    for name, values in GOLDEN["rope_pts"].items():
        index, y, x = (int(part.lstrip("idxy")) for part in name.split("_"))
        for channel, value in values.items():
            found = official[int(channel), index - 2, y, x].item()
            assert found == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("golden", "positions", "kernel", "grid", "block"),
    [
        ("rope_pool2", [3, 7], Kernel(2, 4, 4), (4, 6), (0, 1, 2)),
        # Five rows and six columns are no multiple of four: their last ones are repeated.
        ("rope_pool4", [7, 8, 9, 10], Kernel(4, 8, 8), (5, 6), (0, 1, 1)),
    ],
)
def test_pooled_phases(
    golden: str,
    positions: list[int],
    kernel: Kernel,
    grid: tuple[int, int],
    block: tuple[int, int, int],
) -> None:
    pooled = pool_phases(released_phases(torch.tensor(positions), *grid), kernel)
    official = _official_layout(pooled)
    for channel, value in GOLDEN[golden].items():
        assert official[(int(channel), *block)].item() == pytest.approx(value, abs=1e-6)


def test_teacache_polynomial() -> None:
    for change, value in GOLDEN["teacache_poly"].items():
        assert rescale(float(change)) == pytest.approx(value, abs=1e-9)


def test_first_noise_values() -> None:
    generator = torch.Generator().manual_seed(31337)
    noise = torch.randn((1, 16, 3, 8, 8), generator=generator)
    expected = [1.18328166, -0.06305881, 0.99085093, -0.50606942]
    assert noise.flatten()[:4].tolist() == pytest.approx(expected, abs=1e-7)


def test_pooled_phases_are_shorter_than_one_and_not_normalised() -> None:
    phases = released_phases(torch.arange(4), 4, 6)
    pooled = pool_phases(phases, Kernel(2, 4, 4))
    block = phases[:, :2, :2, :2]
    assert torch.allclose(pooled[:, 0, 0, 0], block.mean(dim=(1, 2, 3)), atol=1e-6)
    assert pooled.abs().min() < 0.99
