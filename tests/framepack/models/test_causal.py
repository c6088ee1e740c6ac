"""Block-causal attention: what is made later does not reach what is made before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.generation.plan import GenerationRequest, plan_generation
from framepack.models.attention import block_causal
from framepack.models.base import LevelLatents
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.packing.schedule import BASE_KERNEL
from framepack.verify import golden_conditioning, golden_model

SIZE = (4, 6)
FRAMES = 7


@pytest.fixture(params=["plain", "fused"], scope="module")
def model(request: pytest.FixtureRequest) -> PackedHunyuanVideo:
    made = golden_model()
    return fuse(made) if request.param == "fused" else made


def velocity(
    model: PackedHunyuanVideo, latents: Tensor, block: int | None, history: float = 1.0
) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    seen = history * torch.randn(1, 16, 2, *SIZE, generator=generator)
    levels = [LevelLatents(BASE_KERNEL, seen, torch.tensor([[0, 1]]))]
    condition = golden_conditioning(*SIZE).positive_condition(0)
    positions = torch.arange(2, 2 + FRAMES)[None]
    with torch.inference_mode():
        prepared = model.prepare(levels, positions, SIZE, condition, 10.0, block)
        return model.predict(latents, torch.tensor([500.0]), prepared, None)


def test_the_mask_is_the_literal_rule() -> None:
    before, frames, per_frame, after, block = 3, 5, 2, 4, 2
    kinds = [None] * before + [f // block for f in range(frames) for _ in range(per_frame)]
    kinds += [None] * after
    allowed = block_causal(before, frames, per_frame, after, block)
    for query, asks in enumerate(kinds):
        for key, told in enumerate(kinds):
            expected = told is None or (asks is not None and told <= asks)
            assert bool(allowed[query, key]) == expected, (query, key)


@pytest.mark.parametrize("changed", range(FRAMES))
def test_a_block_sees_itself_and_what_is_before(model: PackedHunyuanVideo, changed: int) -> None:
    latents = torch.randn(1, 16, FRAMES, *SIZE, generator=torch.Generator().manual_seed(1))
    other = latents.clone()
    other[:, :, changed] += 1.0
    first, second = (velocity(model, each, 3) for each in (latents, other))
    block = changed // 3
    same = [torch.equal(first[:, :, f], second[:, :, f]) for f in range(FRAMES)]
    assert same == [f // 3 < block for f in range(FRAMES)]


def test_every_block_sees_history_and_one_block_is_full_attention_of_the_target(
    model: PackedHunyuanVideo,
) -> None:
    latents = torch.randn(1, 16, FRAMES, *SIZE, generator=torch.Generator().manual_seed(1))
    shown, hidden = velocity(model, latents, 3), velocity(model, latents, 3, history=0.0)
    assert all(not torch.equal(shown[:, :, f], hidden[:, :, f]) for f in range(FRAMES))
    assert not torch.allclose(shown, velocity(model, latents, None))


def test_a_preset_without_causal_attention_says_so() -> None:
    request = GenerationRequest("x", preset="tiny-wan", attention="causal")
    with pytest.raises(InvalidRequest, match="full attention only"):
        plan_generation(request, (64, 64))
