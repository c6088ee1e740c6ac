"""Presets: what loads, from where, when, and under which fingerprint."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from framepack.errors import InvalidRequest, WeightsError
from framepack.generation.plan import GENERATION_CONFIGS
from framepack.generation.stepcache import TeaCacheSettings
from framepack.models.loading import files_sha256
from framepack.presets import (
    ALL_PARTS,
    FOLDERS,
    PRESETS,
    Part,
    engine_fingerprint,
    load_preset,
    tiny_folder,
)


@pytest.fixture
def weights(nano_folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    folder = tmp_path / "weights"
    shutil.copytree(nano_folder, folder)
    return folder


def test_every_preset_has_a_method_and_runs_on_both_devices() -> None:
    assert PRESETS.keys() == GENERATION_CONFIGS.keys()
    for preset in PRESETS.values():
        assert preset.precision.keys() == {"cpu", "cuda"}


@pytest.mark.parametrize("part", ALL_PARTS)
def test_a_part_reads_its_own_folders_only(weights: Path, tmp_path: Path, part: Part) -> None:
    """A deliver process needs no text encoder, a render process that samples no tokenizer."""
    for folder in [path for path in weights.iterdir() if path.is_dir()]:
        if folder.name not in FOLDERS[part]:
            shutil.rmtree(folder)
    models = load_preset("tiny", weights, "cpu")
    assert getattr(models, part) is getattr(models, part), "loaded once"
    fingerprint = engine_fingerprint(models, (part,), hash_cache=tmp_path / "hashes")
    stated = {name for name in fingerprint.details if name.startswith("weights.")}
    assert stated == {f"weights.{name}" for name in FOLDERS[part]}


def test_precision_is_the_presets(nano_folder: Path) -> None:
    """The released presets' loading code reads the same folder."""
    for name, transformer in (("tiny", torch.float32), ("framepack-f1", torch.bfloat16)):
        models = load_preset(name, nano_folder, "cpu")
        assert models.transformer.dtype is transformer
        assert models.codec.vae.dtype is torch.float32
        assert models.encoders.prompt.model.dtype is torch.float32
    assert PRESETS["framepack-i2v"].precision["cuda"].encoders is torch.float16


def test_the_codec_is_shared(nano_folder: Path) -> None:
    models = load_preset("tiny", nano_folder, "cpu")
    assert models.encoders.codec is models.codec


def test_a_missing_folder_is_named(weights: Path) -> None:
    shutil.rmtree(weights / "vae")
    with pytest.raises(WeightsError, match="no folder 'vae'"):
        _ = load_preset("tiny", weights, "cpu").codec


def test_a_transformer_alone_is_enough_for_its_part(nano_folder: Path) -> None:
    models = load_preset("framepack-i2v", nano_folder / "transformer", "cpu")
    assert models.folder("transformer") == nano_folder / "transformer"
    assert models.transformer.dtype is torch.bfloat16


def test_the_prompt_template_is_the_released_one_unless_stated(weights: Path) -> None:
    (weights / "framepack.json").unlink()
    with pytest.raises(WeightsError, match="instead of 95"):
        _ = load_preset("tiny", weights, "cpu").encoders


def test_an_incomplete_settings_file_is_refused(weights: Path) -> None:
    (weights / "framepack.json").write_text('{"prompt_template": "{}"}')
    with pytest.raises(WeightsError, match="does not state 'prompt_crop_start'"):
        _ = load_preset("tiny", weights, "cpu").encoders


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("preset", ("huge", None, "cpu")),
        ("weights", ("tiny", "/nowhere/at/all", "cpu")),
        ("device", ("tiny", None, "abacus")),
        ("device", ("tiny", None, "meta")),
        ("device", ("tiny", None, "cuda:77")),
    ],
)
def test_wishes_that_cannot_be_served(field: str, arguments: tuple[str, str | None, str]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        load_preset(*arguments)
    assert refusal.value.field == field


def test_the_fingerprint_names_what_computes(weights: Path, tmp_path: Path) -> None:
    models = load_preset("tiny", weights, "cpu")

    def short() -> str:
        return engine_fingerprint(models, hash_cache=tmp_path / "hashes").short

    first = short()
    assert short() == first
    details = engine_fingerprint(models, hash_cache=tmp_path / "hashes").details
    assert details["dtype.transformer"] == "float32"
    assert {"version.torch", "version.av", "version.diffusers", "threads"} <= details.keys()
    assert not any(str(weights) in value for value in details.values()), "content, not place"
    config = weights / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert short() != first


def test_the_fingerprint_of_a_part_ignores_the_others(weights: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hashes"
    models = load_preset("tiny", weights, "cpu")
    plain = engine_fingerprint(models, ("codec",), hash_cache=cache)
    cached = engine_fingerprint(models, ("codec",), TeaCacheSettings(), hash_cache=cache)
    assert plain == cached
    sampling = [
        engine_fingerprint(models, ("transformer",), step_cache, hash_cache=cache).short
        for step_cache in (None, TeaCacheSettings(0.15), TeaCacheSettings(0.1))
    ]
    assert len({plain.short, *sampling}) == 4


def test_tiny_is_shipped_or_built_once(tmp_path: Path) -> None:
    folder = tiny_folder(PRESETS["tiny"], tmp_path)
    assert load_preset("tiny", folder, "cpu").folder("vae") == folder / "vae"
    if not folder.is_relative_to(tmp_path):
        return
    before = (folder / "framepack.json").stat().st_mtime_ns
    assert tiny_folder(PRESETS["tiny"], tmp_path) == folder
    assert (folder / "framepack.json").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_builders_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        folders = set(pool.map(tiny_folder, [PRESETS["tiny-wan"]] * 3, [tmp_path] * 3))
    (folder,) = folders
    if folder.is_relative_to(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
        PRESETS["tiny-wan"].family.build(tmp_path / "alone")
        assert files_sha256(folder) == files_sha256(tmp_path / "alone")
