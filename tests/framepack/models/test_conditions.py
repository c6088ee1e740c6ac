"""What is kept from section to section is what would have been computed."""

from __future__ import annotations

import pytest
import torch

from framepack.models import conditions
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.conditions import ConditionMemo, condition_key
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.packing.schedule import Kernel

CONFIG = HunyuanVideoConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=1,
    num_single_layers=2,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    image_proj_dim=8,
    rope_axes_dim=(4, 6, 6),
)


def condition(seed: int = 0, batch: int = 1) -> TextCondition:
    generator = torch.Generator().manual_seed(seed)
    text, pooled, image = (
        torch.randn((batch, *shape), generator=generator) for shape in ((5, 12), (8,), (3, 8))
    )
    return TextCondition(text, pooled, image)


def build() -> PackedHunyuanVideo:
    torch.manual_seed(0)
    return fuse(PackedHunyuanVideo(CONFIG))


@pytest.fixture
def model() -> PackedHunyuanVideo:
    return build()


@torch.inference_mode()
def velocity(model: PackedHunyuanVideo, given: TextCondition, timestep: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    past = torch.randn(1, 16, 1, 8, 8, generator=generator)
    levels = [LevelLatents(Kernel(1, 2, 2), past, torch.tensor([[0]]))]
    prepared = model.prepare(levels, torch.tensor([[1, 2]]), (8, 8), given, 6.0)
    target = torch.randn(1, 16, 2, 8, 8, generator=generator)
    return model.predict(target, torch.tensor([timestep]), prepared)


def refinements(model: PackedHunyuanVideo) -> list[int]:
    """Grows whenever text is refined or a block modulates."""
    calls: list[int] = []
    for name, module in model.named_modules():
        if name == "context_embedder" or name.endswith(".modulation"):
            module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_second_section_gets_the_same_numbers_without_computing_them(
    model: PackedHunyuanVideo,
) -> None:
    calls = refinements(model)
    steps = (1000.0, 640.0, 120.0)
    first = [velocity(model, condition(), step) for step in steps]
    computed = len(calls)
    again = [velocity(model, condition(), step) for step in steps]
    assert computed == 3 * (1 + 2 + 2)  # refiner, two streams of a double block, two single blocks
    assert len(calls) == computed
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(velocity(build(), condition(), 640.0), first[1])


def test_another_prompt_guidance_or_timestep_is_another_condition(
    model: PackedHunyuanVideo,
) -> None:
    calls = refinements(model)
    velocity(model, condition(), 640.0)
    one = len(calls)
    velocity(model, condition(seed=1), 640.0)
    velocity(model, condition(), 600.0)
    assert len(calls) == 3 * one
    assert condition_key(condition(), 6.0) != condition_key(condition(), 7.0)
    assert condition_key(condition(batch=2), 6.0) is None


def test_no_more_than_the_capacity_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "CAPACITY", 2)
    memo, made = ConditionMemo(), list[float]()

    def ask(timestep: float) -> None:
        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            made.append(timestep)
            return torch.zeros(1, 1, 1), torch.zeros(1, 1)

        memo.get("prompt", torch.tensor([timestep]), compute)

    for timestep in (3.0, 2.0, 3.0, 1.0, 3.0, 2.0):
        ask(timestep)
    assert made == [3.0, 2.0, 1.0, 2.0]  # 2 was the longest unused when 1 came


def test_a_model_in_training_keeps_nothing() -> None:
    model = PackedHunyuanVideo(CONFIG)
    before = velocity(model, condition(), 640.0)
    with torch.no_grad():
        model.time_text_embed.timestep_embedder.linear_1.weight.mul_(2)
    assert not torch.equal(velocity(model, condition(), 640.0), before)
