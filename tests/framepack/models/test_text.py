"""Prompt encoding against the official procedure, spelled out with the same small real models."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel

from framepack.errors import WeightsError
from framepack.models.text import (
    PooledEncoder,
    PromptEncoder,
    PromptTemplate,
    load_pooled_encoder,
    load_prompt_encoder,
    released_template,
)

CPU = torch.device("cpu")
TEMPLATE = PromptTemplate("the video shows {} .", crop_start=4, max_tokens=12)
PROMPTS = {
    "short": "a red ball bounces",
    "unknown": "Zwölf {Boxkämpfer} jagen Viktor",
    "long": "a small white ring drifts up and down " * 5,
    "empty": "",
}


@pytest.fixture(scope="module")
def encoder(nano_folder: Path) -> PromptEncoder:
    folders = nano_folder / "text_encoder", nano_folder / "tokenizer"
    return load_prompt_encoder(*folders, TEMPLATE, CPU, torch.float32)


@pytest.fixture(scope="module")
def pooled_encoder(nano_folder: Path) -> PooledEncoder:
    folders = nano_folder / "text_encoder_2", nano_folder / "tokenizer_2"
    return load_pooled_encoder(*folders, CPU, torch.float32)


@torch.inference_mode()
def states_literally(folder: Path, prompt: str) -> Tensor:
    """Pad, run everything, take the state before the last two layers, crop at both ends."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = LlamaModel.from_pretrained(folder / "text_encoder").eval()
    inputs = tokenizer(
        TEMPLATE.text.format(prompt),
        padding="max_length",
        truncation=True,
        max_length=TEMPLATE.crop_start + TEMPLATE.max_tokens,
        return_tensors="pt",
    )
    output = model(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        output_hidden_states=True,
    )
    valid = int(inputs.attention_mask.sum())
    states: Tensor = output.hidden_states[-3][:, TEMPLATE.crop_start : valid]
    return states


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_states_equal_the_official_procedure(
    encoder: PromptEncoder, nano_folder: Path, prompt: str
) -> None:
    expected = states_literally(nano_folder, prompt)
    got = encoder.encode(prompt)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, atol=1e-6)


def test_number_of_states(encoder: PromptEncoder) -> None:
    """Four words, the template's full stop and the end; a long prompt fills the maximum."""
    assert encoder.encode(PROMPTS["short"]).shape == (1, 6, 16)
    assert encoder.encode(PROMPTS["long"]).shape == (1, 12, 16)
    assert encoder.encode(PROMPTS["empty"]).shape == (1, 2, 16)


def test_layers_that_never_matter_are_not_kept(encoder: PromptEncoder, nano_folder: Path) -> None:
    whole = LlamaModel.from_pretrained(nano_folder / "text_encoder")
    assert len(encoder.model.layers) == len(whole.layers) - 2
    assert not isinstance(encoder.model.norm, type(whole.norm))


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@torch.inference_mode()
def test_pooled_equals_the_official_procedure(
    pooled_encoder: PooledEncoder, nano_folder: Path, prompt: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(nano_folder / "tokenizer_2")
    model = CLIPTextModel.from_pretrained(nano_folder / "text_encoder_2").eval()
    ids = tokenizer(
        prompt, padding="max_length", max_length=32, truncation=True, return_tensors="pt"
    ).input_ids
    got = pooled_encoder.encode(prompt)
    assert got.shape == (1, 16)
    assert torch.equal(got, model(ids).pooler_output)


def test_released_template_is_the_one_the_models_know() -> None:
    template = released_template()
    assert hashlib.sha256(template.text.encode()).hexdigest().startswith("a52f68dde3637b12")
    assert (template.crop_start, template.max_tokens) == (95, 256)
    assert template.text.count("{}") == 1
    assert template.text.endswith("{}<|eot_id|>")


@pytest.mark.parametrize("crop_start", [3, 5])
def test_a_tokenizer_that_cuts_the_template_otherwise_is_refused(
    nano_folder: Path, crop_start: int
) -> None:
    folders = nano_folder / "text_encoder", nano_folder / "tokenizer"
    template = replace(TEMPLATE, crop_start=crop_start)
    with pytest.raises(WeightsError, match=f"puts 4 tokens .* instead of {crop_start}"):
        load_prompt_encoder(*folders, template, CPU, torch.float32)


def renamed(source: Path, target: Path, change: Any) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    save_file(change(tensors), target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_names_of_older_versions_load_too(
    pooled_encoder: PooledEncoder, nano_folder: Path, tmp_path: Path
) -> None:
    """The hub's files were written when the text model sat one module deeper."""
    folder = renamed(
        nano_folder / "text_encoder_2",
        tmp_path / "old",
        lambda tensors: (
            {f"text_model.{name}": t for name, t in tensors.items()}
            | {"text_model.embeddings.position_ids": torch.arange(32)[None]}
        ),
    )
    older = load_pooled_encoder(folder, nano_folder / "tokenizer_2", CPU, torch.float32)
    assert torch.equal(older.encode("a ball"), pooled_encoder.encode("a ball"))


def test_missing_and_foreign_tensors_are_named(nano_folder: Path, tmp_path: Path) -> None:
    missing = renamed(
        nano_folder / "text_encoder",
        tmp_path / "missing",
        lambda tensors: {n: t for n, t in tensors.items() if n != "norm.weight"},
    )
    with pytest.raises(WeightsError, match=r"missing_keys.*norm\.weight"):
        load_prompt_encoder(missing, nano_folder / "tokenizer", TEMPLATE, CPU, torch.float32)
    foreign = renamed(
        nano_folder / "text_encoder",
        tmp_path / "foreign",
        lambda tensors: {**tensors, "vision.weight": torch.zeros(1)},
    )
    with pytest.raises(WeightsError, match=r"unexpected_keys.*vision\.weight"):
        load_prompt_encoder(foreign, nano_folder / "tokenizer", TEMPLATE, CPU, torch.float32)


def test_empty_folders_are_refused(nano_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no LlamaModel"):
        load_prompt_encoder(tmp_path, nano_folder / "tokenizer", TEMPLATE, CPU, torch.float32)
    with pytest.raises(WeightsError, match="no tokenizer"):
        load_prompt_encoder(nano_folder / "text_encoder", tmp_path, TEMPLATE, CPU, torch.float32)
