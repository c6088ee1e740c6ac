"""The plan of memory against what the real code holds, at a size that a CPU can run."""

from __future__ import annotations

import json

import pytest
import torch

from framepack.cli import main
from framepack.errors import InvalidRequest
from framepack.footprint import GIB, Planner, _weights, as_text, parse_bytes
from framepack.models.allocations import LiveBytes, peak_bytes
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.placement import Placement, Placing
from framepack.models.tiny import SIZES
from framepack.packing.schedule import Kernel
from framepack.presets import Precision

BF16 = Precision(torch.bfloat16, torch.bfloat16, torch.bfloat16)


@pytest.fixture(scope="module")
def released() -> Planner:
    return Planner("framepack-i2v", "704x544")


def step_peak(device: str) -> int:
    """Of a step of a small model, counted on a device."""
    with torch.device(device):
        model = fuse(PackedHunyuanVideo(SIZES["tiny"].transformer).to(torch.bfloat16))
    model.memo = None

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=torch.bfloat16)

    levels = [LevelLatents(Kernel(2, 4, 4), zeros(1, 16, 2, 16, 16), torch.tensor([[0, 1]]))]
    condition = TextCondition(zeros(1, 20, 96), zeros(1, 64), zeros(1, 9, 64))
    target = zeros(1, 16, 9, 16, 16)
    with torch.inference_mode():
        prepared = model.prepare(levels, torch.arange(2, 11)[None], (16, 16), condition, 10.0)
    return peak_bytes(lambda: model.predict(target, torch.ones(1), prepared))


def test_shapes_alone_hold_what_numbers_hold() -> None:
    assert step_peak("meta") == step_peak("cpu") > 500_000


def test_what_is_alive_is_counted_once_and_until_it_goes() -> None:
    with LiveBytes() as counted:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        a.add_(1)
        del a, b
        torch.zeros(1500)
    assert counted.peak == 8000


@pytest.mark.slow
def test_the_released_model_is_counted_to_the_parameter(released: Planner) -> None:
    w = released.weights
    assert w.around + w.modulations + sum(w.blocks) == 2 * 12_874_314_816
    assert len(w.blocks) == 60
    assert w.modulations == 2 * (20 * 12 + 40 * 3) * 3072 * 3073
    assert w.codec == 2 * 246_478_803


def test_streamed_weights_weigh_what_the_plan_says() -> None:
    found = _weights("tiny", BF16)
    for text, planned in (("streamed", found.blocks), ("streamed+float8", found.blocks8)):
        placing = Placing(Placement.parse(text), torch.device("cpu"))
        model = PackedHunyuanVideo(SIZES["tiny"].transformer).to(torch.bfloat16)
        fuse(model, None, placing.settle)
        stored = sum(each.num_bytes for each in placing._streamed._stored)
        assert 1.0 <= stored / sum(planned) < 1.01, "but for gaps"


@pytest.mark.slow
def test_less_memory_is_a_longer_way_and_every_choice_fits(released: Planner) -> None:
    chosen = []
    for size in (80, 40, 24, 12, 6):
        budget = parse_bytes("vram", f"{size}G") - parse_bytes("reserve", "0.6G")
        every = released.candidates(budget)
        fits = [each for each in every if each.peak <= budget]
        chosen.append(fits[0])
        assert fits[0].peak <= budget
        assert "--placement " + fits[0].placement in as_text(released, every, budget)
    assert chosen[0].placement == "resident"
    assert chosen[-1].placement.startswith("streamed")
    assert [each.peak for each in chosen] == sorted((e.peak for e in chosen), reverse=True)
    assert [each.host for each in chosen] == sorted(each.host for each in chosen)


def test_the_command_says_whether_anything_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan-memory", "--preset", "tiny", "--vram", "4G", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["chosen"] == "resident"
    assert main(["plan-memory", "--preset", "tiny", "--vram", "620M"]) == 1
    assert "Nothing fits" in capsys.readouterr().out
    assert main(["plan-memory", "--preset", "tiny-wan", "--vram", "4G"]) == 2
    assert "choose one of: framepack-i2v" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "6", "G", "-1G", "sixG", "6T"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^vram: "):
        parse_bytes("vram", text)


def test_sizes_are_those_of_graphics_cards() -> None:
    assert parse_bytes("vram", "6G") == parse_bytes("vram", "6144MiB") == 6 * GIB
