"""LoRA files: the right change in every dialect, and other libraries' readers agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from diffusers.loaders import HunyuanVideoLoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from framepack.errors import InvalidRequest, WeightsError
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.lora import (
    DIALECTS,
    Factors,
    Lora,
    merge_lora,
    read_lora,
    weight_shapes,
    write_lora,
)
from framepack.models.tiny import SIZES
from framepack.packing.schedule import Kernel
from framepack.presets import LoraFile, engine_fingerprint, load_preset

CONFIG = SIZES["nano"].transformer
PACKED = "clean_x_embedder.proj_2x"


def new_model(config: HunyuanVideoConfig = CONFIG) -> PackedHunyuanVideo:
    torch.manual_seed(0)
    return PackedHunyuanVideo(config).eval().requires_grad_(requires_grad=False)


def random_lora(shapes: dict[str, tuple[int, ...]], rank: int = 2) -> Lora:
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for name, (rows, *inputs) in shapes.items():
        down = torch.randn(rank, *inputs, generator=generator)
        factors[name] = Factors(down, torch.randn(rows, rank, generator=generator))
    return Lora(factors)


@pytest.fixture
def shapes() -> dict[str, tuple[int, ...]]:
    return weight_shapes(new_model())


def in_blocks(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if "transformer_blocks" in name}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_back_the_same_change(
    dialect: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """All modules that the dialect has a word for, the swapped last modulation among them."""
    nameless = ("clean_x_embedder", "image_projection") if dialect == "original" else ()
    named = {name: shape for name, shape in shapes.items() if not name.startswith(nameless)}
    assert len(named) > 40
    lora = random_lora(named)
    write_lora(lora, shapes, tmp_path / "x.safetensors", dialect)
    again = read_lora(tmp_path / "x.safetensors", shapes)
    assert again.factors.keys() == named.keys()
    for name, factors in lora.factors.items():
        torch.testing.assert_close(again.factors[name].delta(), factors.delta())


def test_merging_changes_each_weight_by_the_product(
    shapes: dict[str, tuple[int, ...]],
) -> None:
    base, model = new_model(), new_model()
    merge_lora(model, random_lora(shapes), 0.5)
    for name, factors in random_lora(shapes).factors.items():
        weight = f"{name}.weight"
        change = model.get_parameter(weight) - base.get_parameter(weight)
        expected = 0.5 * torch.tensordot(factors.up, factors.down, dims=1)
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_diffusers_and_peft_load_the_file_and_move_the_output_alike(
    shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """Their adapter runs beside the weights, ours is merged; the whole models' answers agree."""
    path = tmp_path / "x.safetensors"
    write_lora(random_lora(in_blocks(shapes) | {PACKED: shapes[PACKED]}), shapes, path)
    values = {k: v for k, v in CONFIG.to_json().items() if k not in ("_class_name", "kernels")}
    theirs = HunyuanVideoFramepackTransformer3DModel(**values).eval()
    theirs.load_state_dict(new_model().state_dict())
    base = answer_of_theirs(theirs)
    torch.testing.assert_close(answer_of_ours(new_model()), base, rtol=0, atol=1e-4)
    theirs.load_lora_adapter(load_file(path), prefix="transformer")
    moved = answer_of_theirs(theirs)
    ours = new_model()
    merge_lora(ours, read_lora(path, shapes))
    assert (moved - base).abs().mean() > 0.1
    torch.testing.assert_close(answer_of_ours(ours), moved, rtol=1e-3, atol=2e-3)


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "target": (1, 16, 3, 8, 8),
        "clean": (1, 16, 2, 8, 8),
        "two": (1, 16, 2, 8, 8),
        "four": (1, 16, 16, 8, 8),
        "text": (1, 7, 16),
        "pooled": (1, 16),
        "image": (1, 5, 16),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def answer_of_theirs(model: Any) -> Tensor:
    given = inputs()
    answer: Tensor = model(
        hidden_states=given["target"],
        timestep=torch.tensor([700.0]),
        encoder_hidden_states=given["text"],
        encoder_attention_mask=torch.ones(1, 7),
        pooled_projections=given["pooled"],
        image_embeds=given["image"],
        indices_latents=torch.arange(1, 4),
        guidance=torch.tensor([6000.0]),
        latents_clean=given["clean"],
        indices_latents_clean=torch.tensor([0, 4]),
        latents_history_2x=given["two"],
        indices_latents_history_2x=torch.tensor([5, 6]),
        latents_history_4x=given["four"],
        indices_latents_history_4x=torch.arange(7, 23),
        return_dict=False,
    )[0]
    return answer


def answer_of_ours(model: PackedHunyuanVideo) -> Tensor:
    given = inputs()
    levels = [
        LevelLatents(Kernel(4, 8, 8), given["four"], torch.arange(7, 23)[None]),
        LevelLatents(Kernel(2, 4, 4), given["two"], torch.tensor([[5, 6]])),
        LevelLatents(Kernel(1, 2, 2), given["clean"], torch.tensor([[0, 4]])),
    ]
    condition = TextCondition(given["text"], given["pooled"], given["image"])
    prepared = model.prepare(levels, torch.tensor([[1, 2, 3]]), (8, 8), condition, 6.0)
    return model.predict(given["target"], torch.tensor([700.0]), prepared)


def test_diffusers_converter_reads_our_original_names(tmp_path: Path) -> None:
    """It takes only the released width for the single blocks' fused matrix; ours takes any."""
    width = 3072
    shapes: dict[str, tuple[int, ...]] = {
        f"single_transformer_blocks.0.{name}": (rows, width)
        for name, rows in (("attn.to_q", width), ("attn.to_k", width), ("attn.to_v", width))
    }
    shapes["single_transformer_blocks.0.proj_mlp"] = (4 * width, width)
    shapes |= {f"transformer_blocks.0.attn.to_{x}": (width, width) for x in "qkv"}
    shapes["transformer_blocks.0.ff.net.2"] = (width, 4 * width)
    lora = random_lora(shapes, rank=1)
    write_lora(lora, shapes, tmp_path / "x.safetensors", "original")
    state: dict[str, Tensor] = HunyuanVideoLoraLoaderMixin.lora_state_dict(
        load_file(tmp_path / "x.safetensors")
    )
    for name, factors in lora.factors.items():
        down, up = (state.pop(f"transformer.{name}.lora_{x}.weight") for x in "AB")
        probe = torch.randn(8, down.shape[1])
        expected = probe @ factors.down.T @ factors.up.T
        torch.testing.assert_close(probe @ down.T @ up.T, expected, rtol=1e-3, atol=1e-2)
    assert not state


def test_kohya_names_follow_its_trainers_rule(
    shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """A prefix, the module's path with underscores, down, up and a scalar alpha: their look-up."""
    write_lora(random_lora(in_blocks(shapes)), shapes, tmp_path / "x.safetensors", "kohya")
    state = load_file(tmp_path / "x.safetensors")
    for path in in_blocks(shapes):
        name = f"lora_unet_{path}".replace(".", "_")
        down, up = state.pop(f"{name}.lora_down.weight"), state.pop(f"{name}.lora_up.weight")
        assert state.pop(f"{name}.alpha").item() == down.shape[0] == up.shape[1]
    assert not state


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("double_blocks.0.img_attn_qkv", "transformer."),
        ("double_blocks_0_img_attn_qkv", "lora_unet_"),
        ("double_blocks.0.img_attn_qkv", ""),
    ],
)
def test_a_fused_matrix_is_split_by_rows_with_one_alpha(
    key: str, prefix: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    width = CONFIG.width
    down, up = torch.randn(4, width), torch.randn(3 * width, 4)
    path = tmp_path / "x.safetensors"
    save_file(
        {
            f"{prefix}{key}.lora_down.weight": down,
            f"{prefix}{key}.lora_up.weight": up,
            f"{prefix}{key}.alpha": torch.tensor(1.0),
        },
        path,
    )
    factors = read_lora(path, shapes).factors
    names = [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    stacked = torch.cat([factors[name].delta() for name in names])
    torch.testing.assert_close(stacked, up @ down / 4)
    assert len(factors) == 3


def test_alpha_may_be_stated_as_pefts_metadata(
    shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    name = "transformer_blocks.0.attn.to_q"
    pair = random_lora({name: shapes[name]}, rank=4).factors[name]
    state = {
        f"transformer.{name}.lora_A.weight": pair.down,
        f"transformer.{name}.lora_B.weight": pair.up,
    }
    stated = json.dumps({"transformer.lora_alpha": 12, "transformer.r": 4})
    save_file(state, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": stated})
    factors = read_lora(tmp_path / "x.safetensors", shapes).factors
    torch.testing.assert_close(factors[name].delta(), 3 * pair.delta())


def test_what_cannot_be_used_is_said(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    path, name = tmp_path / "x.safetensors", "transformer_blocks.0.attn.to_q"
    write_lora(random_lora({name: shapes[name]}), shapes, path)
    good = load_file(path)

    def refused(state: dict[str, Tensor], match: str) -> None:
        save_file(state, path)
        with pytest.raises(WeightsError, match=match):
            read_lora(path, shapes)

    other = {"lora_te_text_model_encoder_layers_0.lora_down.weight": torch.ones(1, 2)}
    refused(good | other, r"1 of 3 tensors mean nothing .*\(2 do\): lora_te_text_model")
    dora = {f"transformer.{name}.lora_magnitude_vector": torch.ones(3)}
    refused(good | dora, "lora_magnitude_vector")
    beyond = {f"transformer.{name.replace('0', '7')}.lora_A.weight": torch.ones(1, 2)}
    refused(beyond, r"1 of 1 tensors mean nothing .*\(0 do\)")
    refused({k: v for k, v in good.items() if "lora_A" in k}, "to_q has no up factor")
    refused({k: v[:, :1].contiguous() for k, v in good.items()}, r"to_q: .*\[2, 1\]")
    refused({}, "no tensors of a LoRA")
    path.write_bytes(b"a pickle, perhaps")
    with pytest.raises(WeightsError, match="safetensors"):
        read_lora(path, shapes)
    with pytest.raises(WeightsError, match=f"no word for {PACKED}"):
        write_lora(random_lora({PACKED: shapes[PACKED]}), shapes, path, "original")


def test_a_preset_takes_loras_and_its_fingerprint_says_so(
    nano_folder: Path, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    write_lora(random_lora(in_blocks(shapes)), shapes, path)
    plain = load_preset("tiny", nano_folder, "cpu")
    halved = load_preset("tiny", nano_folder, "cpu", [LoraFile(path, 0.5)])
    twice = load_preset("tiny", nano_folder, "cpu", [LoraFile(path, 0.25), LoraFile(path, 0.25)])
    merged = [m.released_transformer() for m in (plain, halved, twice)]
    assert torch.equal(merged[0].proj_out.weight, merged[1].proj_out.weight)
    names = ["transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.proj_mlp.weight"]
    for name in names:
        base, one, two = (model.get_parameter(name) for model in merged)
        assert not torch.allclose(base, one)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    prints = {
        engine_fingerprint(m, ("transformer",), hash_cache=tmp_path).short
        for m in (plain, halved, twice)
    }
    assert len(prints) == 3
    with pytest.raises(InvalidRequest, match="FILE:SCALE"):
        load_preset("tiny", nano_folder, "cpu", [LoraFile(tmp_path / "absent")])


def test_a_lora_is_named_by_file_and_scale() -> None:
    assert LoraFile.parse("a/b.safetensors") == LoraFile(Path("a/b.safetensors"), 1.0)
    assert LoraFile.parse("b.safetensors:-0.5") == LoraFile(Path("b.safetensors"), -0.5)
    assert LoraFile.parse("C:/b.safetensors") == LoraFile(Path("C:/b.safetensors"), 1.0)
