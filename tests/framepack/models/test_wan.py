"""Packed Wan against diffusers' Wan and Helios transformers: the same random weights, fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HeliosTransformer3DModel, WanTransformer3DModel
from torch import Tensor, nn

from framepack.errors import WeightsError
from framepack.generation.stepcache import TeaCache
from framepack.models.base import LevelLatents, PackedModel, TextCondition
from framepack.models.loading import save_transformer
from framepack.models.wan import KEPT_FP32, PackedWan, WanConfig, load_wan, split_axes
from framepack.packing.patchify import interpolate_projection
from framepack.packing.schedule import Kernel

SMALL: dict[str, Any] = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "num_layers": 3,
    "ffn_dim": 40,
    "text_dim": 24,
}
K1, K2, K4 = Kernel(1, 2, 2), Kernel(2, 4, 4), Kernel(4, 8, 8)
SIZE = (10, 14)
"""Odd in base tokens and no multiple of the larger kernels: edges are repeated."""

SWITCHES = [
    {"guidance_cross_attn": False, "zero_history_timestep": False},
    {"guidance_cross_attn": True, "zero_history_timestep": False},
    {"guidance_cross_attn": False, "zero_history_timestep": True},
    {"guidance_cross_attn": True, "zero_history_timestep": True},
    {"is_amplify_history": True},
    {"is_amplify_history": True, "history_scale_mode": "scalar", "zero_history_timestep": False},
]


def shaken(model: nn.Module) -> nn.Module:
    """Nothing left at one or zero, so that every parameter matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(requires_grad=False)


def helios(**switches: Any) -> Any:
    torch.manual_seed(3)
    return shaken(HeliosTransformer3DModel(**SMALL, rope_dim=split_axes(16), **switches))


def ours(theirs: Any, folder: Path) -> PackedWan:
    theirs.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2, "sharded, as on the hub"
    return load_wan(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = {
        "target": (2, 16, 3, *SIZE),
        "short": (2, 16, 2, *SIZE),
        "mid": (2, 16, 2, *SIZE),
        "long": (2, 16, 6, *SIZE),
        "text": (2, 9, 24),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


TIMESTEP = torch.tensor([873.5, 120.25])
PLACES = {"long": range(1, 7), "mid": range(7, 9), "short": (0, 9), "target": range(10, 13)}


def positions(name: str) -> Tensor:
    return torch.tensor([list(PLACES[name])] * 2)


def condition(given: dict[str, Tensor]) -> TextCondition:
    return TextCondition(given["text"], torch.empty(2, 0), torch.empty(2, 0, 0))


def levels(given: dict[str, Tensor]) -> list[LevelLatents]:
    kernels = {"long": K4, "mid": K2, "short": K1}
    return [LevelLatents(k, given[name], positions(name)) for name, k in kernels.items()]


def velocity(
    model: PackedWan, given: dict[str, Tensor], history: list[LevelLatents], where: Tensor
) -> Tensor:
    prepared = model.prepare(history, where, SIZE, condition(given))
    return model.predict(given["target"], TIMESTEP, prepared)


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert a.std() > 0.1, "nothing to compare"
    return float((a - b).abs().max())


def test_without_history_it_is_wan(given: dict[str, Tensor], tmp_path: Path) -> None:
    torch.manual_seed(5)
    wan: Any = shaken(WanTransformer3DModel(**SMALL))
    model = ours(wan, tmp_path)
    expected = wan(given["target"], TIMESTEP, given["text"], return_dict=False)[0]
    found = velocity(model, given, [], torch.tensor([[0, 1, 2]] * 2))
    assert difference(expected, found) < 1e-5


@pytest.mark.parametrize("switches", SWITCHES)
def test_with_history_it_is_helios(
    given: dict[str, Tensor], switches: dict[str, Any], tmp_path: Path
) -> None:
    theirs = helios(**switches)
    model = ours(theirs, tmp_path)
    expected = theirs(
        given["target"],
        TIMESTEP,
        given["text"],
        indices_hidden_states=positions("target"),
        **{f"indices_latents_history_{name}": positions(name) for name in ("short", "mid", "long")},
        **{f"latents_history_{name}": given[name] for name in ("short", "mid", "long")},
        return_dict=False,
    )[0]
    found = velocity(model, given, levels(given), positions("target"))
    assert difference(expected, found) < 1e-5


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_switches_do_nothing_without_history(
    given: dict[str, Tensor], switches: dict[str, Any], tmp_path: Path
) -> None:
    theirs = helios(**switches)
    where = torch.tensor([[0, 1, 2]] * 2)
    expected = theirs(
        given["target"], TIMESTEP, given["text"], indices_hidden_states=where, return_dict=False
    )[0]
    found = velocity(ours(theirs, tmp_path), given, [], where)
    assert difference(expected, found) < 1e-5


def test_history_matters(given: dict[str, Tensor], tmp_path: Path) -> None:
    model = ours(helios(), tmp_path)
    seen = velocity(model, given, levels(given), positions("target"))
    unseen = velocity(model, given, [], positions("target"))
    assert difference(seen, unseen) > 1e-2


def test_plain_wan_packs_by_averaging(given: dict[str, Tensor], tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = ours(shaken(WanTransformer3DModel(**SMALL)), tmp_path)
    base = model.patch_embedding
    for name, kernel in (("patch_short", K1), ("patch_mid", K2), ("patch_long", K4)):
        own = dict(model.get_submodule(name).named_parameters())
        assert torch.equal(own["weight"], interpolate_projection(base.weight, kernel))
        assert torch.equal(own["bias"], model.get_parameter("patch_embedding.bias"))
        assert own["weight"].data_ptr() != base.weight.data_ptr()
    assert not model.config.zero_history_timestep
    assert velocity(model, given, levels(given), positions("target")).isfinite().all()


def test_it_is_a_packed_model(tmp_path: Path) -> None:
    assert isinstance(ours(helios(), tmp_path), PackedModel)


def test_a_step_cache_that_never_skips_changes_nothing(
    given: dict[str, Tensor], tmp_path: Path
) -> None:
    model = ours(helios(), tmp_path)
    prepared = model.prepare(levels(given), positions("target"), SIZE, condition(given))
    cache = TeaCache(threshold=0.0, steps=2)
    plain = model.predict(given["target"], TIMESTEP, prepared)
    assert torch.equal(model.predict(given["target"], TIMESTEP, prepared, cache), plain)
    skipping = TeaCache(threshold=1e9, steps=9)
    model.predict(given["target"], TIMESTEP, prepared, skipping)
    model.predict(given["target"], TIMESTEP - 1, prepared, skipping)
    assert skipping.skipped == 1


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = replace(
        WanConfig.from_json(SMALL | {"rope_dim": split_axes(16)}),
        kernels=(K1, K2, K4, Kernel(8, 16, 16)),
    )
    model = PackedWan(config)
    save_transformer(model, tmp_path)
    loaded = load_wan(tmp_path, "cpu", torch.float32)
    assert loaded.config == config
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_sensitive_tensors_stay_fp32(tmp_path: Path) -> None:
    theirs = helios(is_amplify_history=True)
    theirs.save_pretrained(tmp_path)
    model = load_wan(tmp_path, "cpu", torch.bfloat16)
    kept = {n for n, t in model.state_dict().items() if t.dtype is torch.float32}
    assert kept == {n for n in model.state_dict() if any(part in n for part in KEPT_FP32)}
    stock = HeliosTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert kept == {n for n, t in stock.state_dict().items() if t.dtype is torch.float32}
    assert model.dtype is torch.bfloat16


def test_bf16_is_as_near_as_theirs(given: dict[str, Tensor], tmp_path: Path) -> None:
    theirs = helios()
    exact = velocity(ours(theirs, tmp_path), given, levels(given), positions("target"))
    half = load_wan(tmp_path, "cpu", torch.bfloat16)
    rounded = {name: tensor.bfloat16() for name, tensor in given.items()}
    found = velocity(half, rounded, levels(given), positions("target"))
    assert found.dtype is torch.float32
    assert float((found - exact).pow(2).mean().sqrt() / exact.std()) < 0.02


def test_missing_and_unexpected_tensors_are_listed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = helios()
    theirs.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    del tensors["patch_mid.weight"]
    save_file(tensors | {"what.is.this": torch.zeros(1)}, path)
    with pytest.raises(WeightsError) as caught:
        load_wan(tmp_path, "cpu", torch.float32)
    assert "missing tensors: (1) patch_mid.weight" in str(caught.value)
    assert "unexpected tensors: (1) what.is.this" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image_dim": 1280}, "image_dim"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
        ({"pooled_projection_dim": 768}, "pooled_projection_dim"),
        ({"rope_dim": [4, 4, 4]}, "attention_head_dim"),
    ],
)
def test_another_architecture_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WeightsError, match=complaint):
        WanConfig.from_json(SMALL | {"rope_dim": split_axes(16)} | change)


def test_a_kernel_without_projection_is_named(given: dict[str, Tensor], tmp_path: Path) -> None:
    model = ours(helios(), tmp_path)
    level = LevelLatents(Kernel(1, 3, 2), given["long"], positions("long"))
    with pytest.raises(KeyError, match="no projection"):
        model.prepare([level], positions("target"), SIZE, condition(given))


@pytest.mark.parametrize("theirs", [HeliosTransformer3DModel, WanTransformer3DModel])
def test_the_released_size_has_their_tensors(theirs: Any) -> None:
    """14 billion parameters, without memory: the layout of the checkpoints on the hub."""
    with torch.device("meta"):
        stock = theirs()
        config = {**stock.config, "_class_name": theirs.__name__}
        model = PackedWan(WanConfig.from_json(config))
    expected = {name: tuple(t.shape) for name, t in stock.state_dict().items()}
    if theirs is WanTransformer3DModel:
        expected["norm_out.scale_shift_table"] = expected.pop("scale_shift_table")
    found = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    history = {name for name in found if name.startswith("patch_") and name not in expected}
    assert {name: found[name] for name in found.keys() - history} == expected
    assert len(history) == (0 if theirs is HeliosTransformer3DModel else 6)
    assert 14.2e9 < sum(t.numel() for t in model.state_dict().values()) < 14.5e9
