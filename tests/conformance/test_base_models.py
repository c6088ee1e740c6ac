"""Whatever is in FAMILIES keeps these; a new base model is picked up by its small preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from framepack.errors import WeightsError
from framepack.families import FAMILIES, SETTINGS
from framepack.generation.conditioning import Conditioning
from framepack.generation.encode import encode
from framepack.generation.generate import Delivered, Finished, generate
from framepack.generation.plan import GenerationRequest, Plan, plan_generation
from framepack.models.base import LevelLatents, PackedModel
from framepack.models.codec import SectionCodec
from framepack.models.lora import weight_shapes
from framepack.packing.schedule import Kernel
from framepack.presets import (
    ALL_PARTS,
    PRESETS,
    LoraFile,
    Models,
    engine_fingerprint,
    load_preset,
)

SMALL = {
    preset.base: name
    for name, preset in PRESETS.items()
    if preset.transformer is None and preset.repository is None
}
"""Base model to its preset that is on no hub."""

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
KERNELS = (Kernel(4, 8, 8), Kernel(2, 4, 4), Kernel(1, 2, 2))


def test_every_base_model_has_a_small_preset() -> None:
    assert SMALL.keys() == FAMILIES.keys() == {preset.base for preset in PRESETS.values()}


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / base
    FAMILIES[base].build(folder)
    return folder


@pytest.fixture(scope="module")
def models(base: str, folder: Path) -> Models:
    return load_preset(SMALL[base], folder, "cpu")


@pytest.fixture(scope="module")
def plan(base: str) -> Plan:
    request = GenerationRequest("a red ball", SMALL[base], seconds=2.6, steps=2, cfg_scale=1.0)
    return plan_generation(request, (60, 60))


@pytest.fixture(scope="module")
def conditioning(models: Models, plan: Plan) -> Conditioning:
    return encode(models.encoders, plan, IMAGE)


def test_its_folder_has_what_its_parts_read(base: str, folder: Path) -> None:
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    assert folders == {name for names in FAMILIES[base].folders.values() for name in names}
    assert (folder / SETTINGS).is_file()


def test_it_keeps_the_protocols(models: Models, plan: Plan) -> None:
    assert isinstance(models.transformer, PackedModel)
    assert isinstance(models.codec, SectionCodec)
    assert models.codec.tiling.apart == plan.config.sections_apart
    assert models.codec.tiling.temporal_compression == plan.config.temporal_compression


def test_conditioning_survives_storage(conditioning: Conditioning) -> None:
    tensors = conditioning.to_tensors()
    again = Conditioning.from_tensors(tensors).to_tensors()
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@torch.inference_mode()
def velocity(
    model: PackedModel[Any],
    conditioning: Conditioning,
    history: float = 1.0,
    text: float = 1.0,
    sigma: float = 0.7,
    kernels: tuple[Kernel, ...] = KERNELS,
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    condition = conditioning.positive_condition(0)
    levels = []
    for kernel in kernels:
        latents = torch.randn((1, 16, kernel.t, 6, 10), generator=generator)
        levels.append(LevelLatents(kernel, history * latents, torch.arange(kernel.t)[None]))
    prepared = model.prepare(
        levels,
        torch.tensor([[7, 8, 9]]),
        (6, 10),
        replace(condition, text=text * condition.text),
        6.0,
    )
    target = torch.randn((1, 16, 3, 6, 10), generator=torch.Generator().manual_seed(2))
    return model.predict(target, torch.tensor([1000 * sigma]), prepared, None)


def test_it_predicts_from_history_text_and_time(models: Models, conditioning: Conditioning) -> None:
    model = models.transformer
    plain = velocity(model, conditioning)
    assert plain.shape == (1, 16, 3, 6, 10)
    assert plain.dtype is torch.float32
    assert torch.equal(velocity(model, conditioning), plain), "a call leaves nothing behind"
    changed = {
        "history": velocity(model, conditioning, history=-1.0),
        "text": velocity(model, conditioning, text=-1.0),
        "time": velocity(model, conditioning, sigma=0.2),
        "no history": velocity(model, conditioning, kernels=()),
    }
    for what, other in changed.items():
        assert other.isfinite().all()
        assert not torch.allclose(other, plain, atol=1e-6), what


@pytest.mark.parametrize("pictured", [True, False])
def test_a_video_has_the_frames_that_were_planned(
    models: Models, plan: Plan, tmp_path: Path, pictured: bool
) -> None:
    output = tmp_path / "video.mp4"
    if not pictured:
        plan = plan_generation(plan.request, None)
    events = list(generate(models, plan, IMAGE if pictured else None, output))
    assert len(plan.sections) == 2
    clips = [event.clip for event in events if isinstance(event, Delivered)]
    assert all(clips)
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert finished.num_frames == plan.num_pixel_frames
    with av.open(output) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (plan.height, plan.width)
        assert stream.average_rate == plan.config.fps
        assert sum(1 for _ in container.decode(stream)) == plan.num_pixel_frames


def test_a_lora_merges_into_it(base: str, folder: Path, models: Models, tmp_path: Path) -> None:
    plain: Any = models.released_transformer()
    shapes = {name: shape for name, shape in weight_shapes(plain).items() if len(shape) == 2}
    chosen = [name for name in shapes if ".to_" in name][:3]
    torch.manual_seed(4)
    tensors, deltas = {}, {}
    for name in chosen:
        rows, columns = shapes[name]
        down, up = torch.randn(2, columns), torch.randn(rows, 2)
        tensors[f"transformer.{name}.lora_A.weight"] = down
        tensors[f"transformer.{name}.lora_B.weight"] = up
        deltas[f"{name}.weight"] = up @ down
    save_file(tensors, tmp_path / "lora.safetensors")
    file = LoraFile(tmp_path / "lora.safetensors", 0.5)
    merged: Any = load_preset(SMALL[base], folder, "cpu", [file]).released_transformer()
    before, after = plain.state_dict(), merged.state_dict()
    assert len(chosen) == 3
    for name, tensor in before.items():
        change = 0.5 * deltas[name] if name in deltas else torch.zeros(())
        assert torch.allclose(after[name], tensor + change, atol=1e-6), name


def test_the_fingerprint_covers_every_folder(base: str, models: Models, tmp_path: Path) -> None:
    details = engine_fingerprint(models, ALL_PARTS, hash_cache=tmp_path).details
    stated = {name.removeprefix("weights.") for name in details if name.startswith("weights.")}
    assert stated == {name for names in FAMILIES[base].folders.values() for name in names}


def test_a_transformer_of_another_base_model_is_refused(base: str, tmp_path: Path) -> None:
    for other in FAMILIES.keys() - {base}:
        FAMILIES[other].build(tmp_path / other)
        if not (tmp_path / other / "scheduler").exists():
            (tmp_path / other / "scheduler").mkdir()
            (tmp_path / other / "scheduler" / "scheduler_config.json").write_text("{}")
        with pytest.raises(WeightsError, match="unknown keys"):
            _ = load_preset(SMALL[base], tmp_path / other, "cpu").transformer
