"""Where weights wait changes no bit of what is computed, and really is where they wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.families import FAMILIES
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.float8 import CountedProducts, emulated, multiply, to_float8
from framepack.models.fused import FusedLinear, fuse
from framepack.models.hunyuan_video import PackedHunyuanVideo
from framepack.models.placement import Placement, Placing
from framepack.models.streaming import StoredWeights, WeightStream
from framepack.models.tiny import SIZES
from framepack.packing.schedule import Kernel
from framepack.presets import engine_fingerprint, load_preset

CPU = torch.device("cpu")
CONFIG = SIZES["tiny"].transformer


def build(dtype: torch.dtype) -> PackedHunyuanVideo:
    torch.manual_seed(0)
    model = PackedHunyuanVideo(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.to(dtype).eval().requires_grad_(requires_grad=False)


def placed(
    text: str, dtype: torch.dtype = torch.bfloat16, device: torch.device = CPU
) -> tuple[Placing, PackedHunyuanVideo]:
    """A model in a placement, and who put it there."""
    placing = Placing(Placement.parse(text), device)
    model = FAMILIES["hunyuan-video"].infer(build(dtype), None, placing)
    assert isinstance(model, PackedHunyuanVideo)
    return placing, model


@torch.inference_mode()
def velocities(model: PackedHunyuanVideo, steps: tuple[float, ...] = (900.0, 300.0)) -> Tensor:
    """Steps of a section with history, announced before they come."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    levels = [LevelLatents(Kernel(1, 2, 2), draw(1, 16, 1, 8, 8), torch.tensor([[0]]))]
    condition = TextCondition(draw(1, 5, 96), draw(1, 64), draw(1, 3, 64))
    prepared = model.prepare(levels, torch.tensor([[1, 2, 3]]), (8, 8), condition, 6.0)
    model.anticipate(torch.tensor(steps), prepared)
    target = draw(1, 16, 3, 8, 8).to(model.device, model.dtype)
    found = [model.predict(target, torch.tensor([step]), prepared) for step in steps]
    return torch.stack(found).cpu()


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("staged", torch.bfloat16),
        ("streamed", torch.bfloat16),
        ("streamed:2", torch.bfloat16),
        ("streamed:99", torch.bfloat16),
        ("streamed:1", torch.float32),
    ],
)
def test_every_placement_gives_the_same_bits(text: str, dtype: torch.dtype) -> None:
    expected = velocities(fuse(build(dtype)))
    assert expected.abs().mean() > 0.05
    _, model = placed(text, dtype)
    assert torch.equal(velocities(model), expected)
    assert torch.equal(velocities(model), expected), "and again, with blocks under way"


def test_streamed_blocks_hold_nothing_between_runs_and_come_once_a_step() -> None:
    placing, model = placed("streamed:2")
    stream = placing._streamed
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    held = [sum(b.numel() for b in block.buffers()) for block in blocks]
    assert all(held[:2])
    assert not any(held[2:])
    velocities(model)
    assert not any(sum(b.numel() for b in block.buffers()) for block in blocks[2:])
    # Two steps of four blocks, and the one that came for the step after.
    assert stream.copied == 2 * 4 + 1
    assert len(stream._slots) == 2


def test_modulations_come_once_a_job_not_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = placed("staged")
    fills, fill = 0, StoredWeights.fill

    def counted(weights: StoredWeights, run: Tensor) -> None:
        nonlocal fills
        fills += 1
        fill(weights, run)

    monkeypatch.setattr(StoredWeights, "fill", counted)
    velocities(model)
    velocities(model)
    modulations = 2 * CONFIG.num_layers + CONFIG.num_single_layers
    assert fills == modulations


def test_a_run_that_is_broken_off_does_not_confuse_the_next() -> None:
    stream = WeightStream(CPU, CPU, "model")
    layers = [torch.nn.Linear(4, 4) for _ in range(3)]
    x = torch.randn(2, 4)
    expected = [layer(x).detach() for layer in layers]
    for layer in layers:
        stream.add(layer.requires_grad_(requires_grad=False))
    order = [0, 1, 0, 1, 2, 0, 2, 2]
    for number in order:
        assert torch.equal(layers[number](x), expected[number])


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("resident", torch.bfloat16), ("streamed", torch.bfloat16), ("staged", torch.float32)],
)
def test_float8_is_near_and_never_the_same(policy: str, dtype: torch.dtype) -> None:
    """Never the same: a setting without effect would look exact."""
    expected = velocities(fuse(build(dtype)))
    made = velocities(placed(f"{policy}+float8", dtype)[1])
    error = (made - expected).norm() / expected.norm()
    assert 0.001 < error < 0.1


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("resident", torch.float32), ("resident", torch.bfloat16), ("streamed", torch.bfloat16)],
)
def test_float8_products_run_in_the_float8_kernel_and_come_near(
    policy: str, dtype: torch.dtype
) -> None:
    """Four products a stream of a double block, three of a single one, in each of two steps."""
    expected = velocities(fuse(build(dtype)))
    placing, model = placed(f"{policy}+float8mm", dtype)
    with CountedProducts() as products:
        made = velocities(model)
    assert placing.exact == []
    assert products.count == 2 * (8 * CONFIG.num_layers + 3 * CONFIG.num_single_layers)
    assert 0.001 < (made - expected).norm() / expected.norm() < 0.2


def test_the_float8_kernel_multiplies_what_it_is_given() -> None:
    generator = torch.Generator().manual_seed(0)
    x, matrix = torch.randn(5, 32, generator=generator), torch.randn(16, 32, generator=generator)
    weight, scale = to_float8(100 * matrix)
    found = multiply(x, weight, scale)
    assert torch.allclose(found, emulated(x, weight, scale), rtol=1e-5, atol=1e-3)
    exact = 100 * x @ matrix.t()
    assert 0.001 < (found - exact).norm() / exact.norm() < 0.06


def test_layers_of_odd_shapes_stay_exact_and_are_named() -> None:
    layer = FusedLinear([torch.nn.Linear(32, 24)])
    x = torch.randn(3, 32)
    expected = layer(x)
    assert not layer.use_float8()
    assert torch.equal(layer(x), expected)


def test_a_device_without_a_float8_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object, **__: object) -> Tensor:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with ...")

    monkeypatch.setattr(torch, "_scaled_mm", no_kernel)
    with pytest.raises(InvalidRequest, match=r"placement: \+float8mm: cpu has no float8 kernel"):
        Placing(Placement.parse("resident+float8mm"), CPU)


def test_a_float8_kernel_that_computes_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = torch._scaled_mm

    def unscaled(a: Tensor, b: Tensor, **given: Any) -> Tensor:
        return kernel(a, b, **{**given, "scale_a": torch.ones_like(given["scale_a"])})

    monkeypatch.setattr(torch, "_scaled_mm", unscaled)
    with pytest.raises(InvalidRequest, match="from its emulation"):
        Placing(Placement.parse("resident+float8mm"), CPU)


def test_float8_products_are_refused_where_no_layer_can_run_them() -> None:
    with pytest.raises(InvalidRequest, match=r"\+float8mm is for HunyuanVideo"):
        _ = load_preset("tiny-wan", device="cpu", placement="resident+float8mm").transformer


def test_float8_halves_what_travels() -> None:
    whole, half = (
        sum(s.num_bytes for s in placed(text)[0]._streamed._stored)
        for text in ("streamed", "streamed+float8")
    )
    assert 0.49 < half / whole < 0.56


@pytest.mark.parametrize("text", ["streamed", "staged"])
def test_a_whole_preset_is_the_same_in_any_placement(text: str) -> None:
    resident, moved = load_preset("tiny", device="cpu"), load_preset("tiny", placement=text)
    prompts = [m.encoders.prompt.encode("a red ball slides") for m in (resident, moved)]
    assert torch.equal(*prompts)
    pooled = [m.encoders.pooled.encode("a red ball slides") for m in (resident, moved)]
    assert torch.equal(*pooled)
    latents = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(m.codec.decode_window(latents) for m in (resident, moved)))


def test_wan_streams_too() -> None:
    resident = load_preset("tiny-wan", device="cpu").transformer
    moved = load_preset("tiny-wan", device="cpu", placement="streamed").transformer
    assert sum(p.numel() for p in moved.blocks.parameters()) == 0  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    width = resident.config.text_dim  # type: ignore[attr-defined]
    condition = TextCondition(
        torch.randn(1, 5, width, generator=generator), torch.zeros(1, 1), torch.zeros(1, 0, 1)
    )
    target = torch.randn(1, 16, 3, 8, 8, generator=generator)
    found = []
    with torch.inference_mode():
        for model in (resident, moved):
            prepared = model.prepare([], torch.tensor([[1, 2, 3]]), (8, 8), condition, 0.0)
            found.append(model.predict(target, torch.tensor([500.0]), prepared, None))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "text", ["", "resident:3", "streamed:", "streamed:1000", "float8", "sTaged"]
)
def test_a_placement_that_is_none_says_what_there_is(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^placement: .*resident, staged, streamed"):
        load_preset("tiny", placement=text)


@pytest.mark.parametrize("text", ["resident", "streamed:12+float8", "staged+float8mm+hostcodec"])
def test_a_placement_is_its_text(text: str) -> None:
    assert str(Placement.parse(text)) == text


def test_only_what_changes_bytes_is_in_the_fingerprint(tmp_path: Path) -> None:
    prints = {
        text: engine_fingerprint(
            load_preset("tiny", device="cpu", placement=text), hash_cache=tmp_path
        ).short
        for text in (
            "resident",
            "streamed",
            "resident+float8",
            "streamed+float8",
            "resident+float8mm",
        )
    }
    assert len(set(prints.values())) == 3
    assert prints["resident"] == prints["streamed"]
    assert prints["resident+float8"] == prints["streamed+float8"] != prints["resident"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("text", ["staged", "streamed", "streamed:2", "streamed+float8"])
def test_on_a_gpu_streams_overlap_and_change_nothing(text: str) -> None:
    cuda = torch.device("cuda")
    plain = "resident+float8" if text.endswith("float8") else "resident"
    expected = velocities(placed(plain, device=cuda)[1])
    placing, model = placed(text, device=cuda)
    for _ in range(3):
        assert torch.equal(velocities(model), expected)
    assert all(s.run.is_pinned() and not s.run.is_cuda for s in placing._streamed._stored)
