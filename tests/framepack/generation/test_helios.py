"""The section loop against diffusers' HeliosPipeline: two sections of latents, the same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from framepack.errors import InvalidRequest, WeightsError
from framepack.generation.conditioning import Conditioning
from framepack.generation.encode import encode, noised_start
from framepack.generation.generate import sampling_settings
from framepack.generation.history import History
from framepack.generation.plan import GENERATION_CONFIGS, GenerationRequest, Plan, plan_generation
from framepack.generation.section import finish_section, sample_section
from framepack.generation.seeds import noise_generator, start_generator
from framepack.generation.stitch import check_delivery, to_uint8
from framepack.generation.windows import AlignedWindows
from framepack.models.loading import read_json, save_transformer
from framepack.models.wan_tiny import build_wan_folder
from framepack.presets import Models, load_preset

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
"""Of numpy, which diffusers' scheduler fills with a tensor."""

REQUEST = GenerationRequest(
    "a red &amp;amp; ball   slides", "tiny-wan", seconds=2.75, steps=5, negative_prompt="still"
)
IMAGE = np.random.default_rng(3).integers(0, 255, (60, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights larger than the usual start, so that history and text change what comes out."""
    folder = tmp_path_factory.mktemp("weights")
    build_wan_folder(folder, seed=1)
    model: Any = load_preset("tiny-wan", folder, "cpu").transformer
    torch.manual_seed(2)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    save_transformer(model, folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return load_preset("tiny-wan", folder, "cpu")


@pytest.fixture(scope="module")
def pipeline(folder: Path, models: Models) -> Any:
    config = read_json(folder / "transformer" / "config.json")
    known = {k: v for k, v in config.items() if k not in ("kernels", "_class_name")}
    transformer = HeliosTransformer3DModel.from_config(known)
    transformer.load_state_dict(models.released_transformer().state_dict(), strict=True)
    pipeline = HeliosPipeline(
        tokenizer=models.encoders.prompt.tokenizer,
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        vae=AutoencoderKLWan.from_pretrained(folder / "vae"),
        scheduler=HeliosScheduler.from_pretrained(folder / "scheduler"),
        transformer=transformer.eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_generation(REQUEST, (60, 90))


@pytest.fixture(scope="module")
def conditioning(models: Models, plan: Plan) -> Conditioning:
    return encode(models.encoders, plan, IMAGE)


def ours(models: Models, plan: Plan, conditioning: Conditioning) -> Tensor:
    history = History(conditioning.start)
    generator = noise_generator(plan.request.seed)
    for section in plan.sections:
        steps = sample_section(
            models.transformer, conditioning, section, history, sampling_settings(plan), generator
        )
        history.add(section.frames, finish_section(steps))
    return history.frames(range(plan.num_latent_frames))


def theirs(pipeline: Any, plan: Plan, conditioning: Conditioning) -> Tensor:
    """With the start picture's latent as the newest frame of the first history, as in ours."""
    assert conditioning.negative is not None
    with torch.inference_mode():
        found = pipeline(
            prompt_embeds=conditioning.prompts[0].text,
            negative_prompt_embeds=conditioning.negative.text,
            height=plan.height,
            width=plan.width,
            num_frames=plan.num_pixel_frames,
            num_inference_steps=plan.steps,
            image_latents=conditioning.start,
            fake_image_latents=conditioning.start,
            add_noise_to_image_latents=False,
            generator=noise_generator(plan.request.seed),
            output_type="latent",
        )
    latents: Tensor = found.frames
    return latents


def test_two_sections_are_the_pipelines(
    models: Models, pipeline: Any, plan: Plan, conditioning: Conditioning
) -> None:
    expected = theirs(pipeline, plan, conditioning)
    found = ours(models, plan, conditioning)
    assert expected.shape == found.shape == (1, 16, 19, 6, 10)
    assert expected[:, :, 1:].std() > 0.3
    assert (expected - found).abs().max() < 1e-4


def test_text_to_video_is_the_pipelines(models: Models, pipeline: Any) -> None:
    """No start picture, and from the second section on its first latent frame in that place."""
    plan = plan_generation(replace(REQUEST, seconds=4.1), None)
    conditioning = encode(models.encoders, plan, None)
    assert conditioning.negative is not None
    with torch.inference_mode():
        found = pipeline(
            prompt_embeds=conditioning.prompts[0].text,
            negative_prompt_embeds=conditioning.negative.text,
            height=plan.height,
            width=plan.width,
            num_frames=plan.num_pixel_frames,
            num_inference_steps=plan.steps,
            generator=noise_generator(plan.request.seed),
            output_type="latent",
        )
    made = ours(models, plan, conditioning)[:, :, 1:]
    assert made.shape == (1, 16, 27, 8, 8)
    assert found.frames[:, :, -27:].std() > 0.3
    assert (found.frames[:, :, -27:] - made).abs().max() < 1e-4


def test_every_part_of_the_method_matters(
    models: Models, pipeline: Any, plan: Plan, conditioning: Conditioning
) -> None:
    """The comparison above could tell another sampler, first level, order or guidance."""
    expected = theirs(pipeline, plan, conditioning)
    config = plan.config
    others = [
        replace(plan, config=replace(config, sampler="unipc_bh2")),
        replace(plan, config=replace(config, first_sigma=1.0 - 1e-6)),
        replace(plan, request=replace(plan.request, cfg_scale=4.0)),
        replace(plan, sections=(plan.sections[0], *plan_with("f1k1_x_td_f16k4f2k2f2k1_g9"))),
    ]
    for other in others:
        assert (ours(models, other, conditioning) - expected).abs().max() > 1e-3


def plan_with(schedule: str) -> tuple[Any, ...]:
    return plan_generation(replace(REQUEST, schedule=schedule), (60, 90)).sections[1:]


def test_prompts_are_the_pipelines(pipeline: Any, models: Models) -> None:
    encoder: Any = models.encoders.prompt
    length = encoder.max_tokens
    for prompt in (REQUEST.prompt, "", "a " * 99):
        expected, _ = pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=length)
        found = encoder.encode(prompt)
        assert found.shape == (1, length, 16)
        assert (expected - found).abs().max() < 1e-5
        assert found.std() > 0.1


def test_sections_are_decoded_one_by_one_like_the_pipelines(
    models: Models, pipeline: Any, plan: Plan, conditioning: Conditioning
) -> None:
    latents = ours(models, plan, conditioning)
    delivery = AlignedWindows(models.codec, plan)
    mean, std = (
        torch.tensor(pipeline.vae.config[name]).view(1, 16, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    for index, frames in ((0, range(1, 10)), (1, range(10, 19))):
        with torch.inference_mode():
            expected = pipeline.vae.decode(latents[:, :, list(frames)] * std + mean).sample
        found = delivery.pixels(index, lambda numbers: latents[:, :, list(numbers)])
        assert delivery.run(index) == range(33 * index, 33 * index + 33)
        assert found.shape == (1, 3, 33, 48, 80)
        assert (found - expected).abs().max() < 1e-5
        assert to_uint8(found).std() > 1


def test_the_picture_is_encoded_like_the_pipelines(models: Models, pipeline: Any) -> None:
    pixels = IMAGE[:48, :80]
    picture = (torch.from_numpy(pixels.copy()).float() / 127.5 - 1).permute(2, 0, 1)[None, :, None]
    posterior = pipeline.vae.encode(picture).latent_dist
    expected = posterior.sample(generator=torch.Generator().manual_seed(8))
    found = models.codec.encode_image(pixels, torch.Generator().manual_seed(8))
    mean, std = (
        torch.tensor(pipeline.vae.config[name]).view(1, 16, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    assert (found - (expected - mean) / std).abs().max() < 1e-5


def test_the_start_is_shown_with_a_little_noise(models: Models, conditioning: Conditioning) -> None:
    clean = torch.randn(1, 16, 1, 8, 8)
    level = 0.111 + 0.024 * torch.rand(1, generator=start_generator(5))
    noised = noised_start(clean, (0.111, 0.135), start_generator(5))
    assert abs(float((noised - (1 - level) * clean).std() / level) - 1) < 0.1
    assert torch.equal(noised, noised_start(clean, (0.111, 0.135), start_generator(5)))
    assert conditioning.start.shape == (1, 16, 1, 6, 10)


def test_what_helios_has_not_is_refused(plan: Plan) -> None:
    with pytest.raises(InvalidRequest, match=r"no distilled guidance.*cfg_scale"):
        plan_generation(
            GenerationRequest("a ball", "helios-base", guidance_scale=6.0), image_size=(64, 64)
        )
    with pytest.raises(InvalidRequest, match="each alone; use aligned"):
        check_delivery("official", plan)


def test_a_plan_counts_its_frames(plan: Plan) -> None:
    """33 a section and no start picture; two sections of 24 frames a second are 2.75 s."""
    assert GENERATION_CONFIGS["helios-base"].section_frames == 33
    assert (len(plan.sections), plan.num_pixel_frames, plan.duration_seconds) == (2, 66, 2.75)
    assert plan.cfg_scale == 5.0


@pytest.mark.parametrize("change", [{"stages": 3}, {"scheduler_type": "dmd"}])
def test_checkpoints_sampled_in_stages_are_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Helios-Mid and Helios-Distilled: their pictures would be plausible and wrong."""
    shutil.copytree(folder, tmp_path / "mid")
    path = tmp_path / "mid" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(WeightsError, match="use BestWishYsh/Helios-Base"):
        _ = load_preset("tiny-wan", tmp_path / "mid", "cpu").transformer
