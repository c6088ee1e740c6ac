"""Frames by section against decoding everything at once, and against the official procedure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.generation.crossfade import soft_append
from framepack.generation.orders import ORDERS
from framepack.generation.plan import GenerationConfig, GenerationRequest, Plan
from framepack.generation.stitch import SectionDecoder, to_uint8
from framepack.generation.windows import AlignedWindows
from framepack.models.vae import HunyuanVideoCodec, use_onednn_convolutions
from framepack.packing.schedule import parse_schedule

GOLDEN = Path(__file__).parents[2] / "golden" / "transformer.json"


def plan_of(num_sections: int, order: str = "inverted", window: int = 9) -> Plan:
    schedule = parse_schedule(ORDERS[order].default_schedule).with_window(window)
    return Plan(
        request=GenerationRequest("a ball"),
        config=GenerationConfig(window=window),
        order=order,
        schedule=schedule,
        height=32,
        width=48,
        steps=1,
        guidance_scale=10.0,
        sections=ORDERS[order].sections(num_sections, schedule),
    )


def latents_for(plan: Plan) -> Tensor:
    generator = torch.Generator().manual_seed(plan.num_latent_frames)
    return torch.randn(1, 16, plan.num_latent_frames, 4, 6, generator=generator)


def reader(latents: Tensor) -> Callable[[Sequence[int]], Tensor]:
    return lambda numbers: latents[:, :, list(numbers)]


@pytest.fixture(scope="module")
def vae(nano_folder: Path) -> Any:
    """Stock convolutions, so that nothing of ours is on both sides of a comparison."""
    vae = AutoencoderKLHunyuanVideo.from_pretrained(nano_folder / "vae").eval()
    with torch.no_grad():  # spread the pictures of random weights over and beyond -1..1
        vae.decoder.conv_out.conv.weight *= 6
    return vae


@pytest.fixture(scope="module", params=["float32", "bfloat16", "onednn"])
def any_vae(request: pytest.FixtureRequest, vae: Any, nano_folder: Path) -> Any:
    chosen = AutoencoderKLHunyuanVideo.from_config(vae.config).eval()
    chosen.load_state_dict(vae.state_dict())
    if request.param == "onednn":
        use_onednn_convolutions(chosen)
        return chosen
    return chosen.to(getattr(torch, request.param))


@torch.inference_mode()
def decoded_at_once(vae: Any, latents: Tensor) -> Tensor:
    pixels: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return pixels


def uint8_literally(pixels: Tensor) -> Any:
    return np.trunc(np.clip(pixels.float().numpy(), -1, 1) * 127.5 + 127.5).astype(np.uint8)


@pytest.mark.parametrize("order", ["inverted", "forward", "endpoints"])
@pytest.mark.parametrize("num_sections", [1, 2, 3, 6])
def test_aligned_is_the_whole_video_bit_for_bit(
    any_vae: Any, order: str, num_sections: int
) -> None:
    plan = plan_of(num_sections, order)
    latents = latents_for(plan)
    whole = decoded_at_once(any_vae, latents)
    assert whole.shape[2] == plan.num_pixel_frames == 36 * num_sections + 1
    codec = HunyuanVideoCodec(any_vae)
    resumed = AlignedWindows(codec, plan)
    covered: list[int] = []
    for index in range(num_sections):
        run = resumed.run(index)
        expected = whole[:, :, run.start : run.stop]
        assert torch.equal(resumed.pixels(index, reader(latents)), expected)
        fresh = AlignedWindows(codec, plan).pixels(index, reader(latents))
        assert torch.equal(fresh, expected)
        covered.extend(run)
    assert sorted(covered) == list(range(plan.num_pixel_frames))


@pytest.mark.parametrize("delivery", ["aligned", "official"])
@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_runs_do_not_depend_on_the_length_of_the_video(vae: Any, order: str, delivery: str) -> None:
    codec = HunyuanVideoCodec(vae)
    short, long = (SectionDecoder(codec, plan_of(n, order), delivery) for n in (5, 100))
    for index in range(1, 4):
        assert len(short.run(index)) == len(long.run(index)) == 36
        assert len(short.latent_frames_needed(index)) == len(long.latent_frames_needed(index))
    needed = [long.sections_needed(index) for index in range(100)]
    assert all(len(n) <= 3 and n[-1] == i for i, n in enumerate(needed))
    assert sum(len(long.run(index)) for index in range(100)) == 3601


@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_each_window_is_decoded_once_and_only_known_latents_are_read(vae: Any, order: str) -> None:
    plan = plan_of(4, order)
    latents = latents_for(plan)
    read: list[tuple[int, ...]] = []

    def latents_of(numbers: Sequence[int]) -> Tensor:
        read.append(tuple(numbers))
        return latents[:, :, list(numbers)]

    decoder = SectionDecoder(HunyuanVideoCodec(vae), plan)
    known = {0}
    for section in plan.sections:
        known.update(section.frames)
        before = len(read)
        decoder.decode(section.index, latents_of)
        asked = {number for numbers in read[before:] for number in numbers}
        assert asked <= known
        assert asked <= set(decoder.latent_frames_needed(section.index)) <= known
    assert sorted(read) == [tuple(range(s, min(s + 5, 37))) for s in range(0, 36, 3)]


@pytest.mark.parametrize("delivery", ["aligned", "official"])
def test_a_fresh_process_needs_exactly_what_it_says(vae: Any, delivery: str) -> None:
    plan = plan_of(4)
    latents = latents_for(plan)
    for index in range(4):
        read: set[int] = set()

        def latents_of(numbers: Sequence[int], read: set[int] = read) -> Tensor:
            read.update(numbers)
            return latents[:, :, list(numbers)]

        decoder = SectionDecoder(HunyuanVideoCodec(vae), plan, delivery)
        decoder.decode(index, latents_of)
        assert sorted(read) == list(decoder.latent_frames_needed(index))
        made_by = {s.index for s in plan.sections if not read.isdisjoint(s.frames)}
        assert decoder.sections_needed(index) == tuple(sorted(made_by))


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["inverted", "forward"])
def test_aligned_at_other_windows(vae: Any, order: str, window: int) -> None:
    """Sections shorter than a codec window finish nothing at times, and never a frame twice."""
    plan = plan_of(4, order, window)
    latents = latents_for(plan)
    frames = uint8_literally(decoded_at_once(vae, latents))[0].transpose(1, 2, 3, 0)
    decoder = SectionDecoder(HunyuanVideoCodec(vae), plan)
    runs = [decoder.decode(index, reader(latents)) for index in range(4)]
    in_time = sorted((run for run in runs if len(run.frames)), key=lambda run: run.first_frame)
    assert np.array_equal(np.concatenate([run.frames for run in in_time]), frames)


def test_a_gap_that_closes_brings_both_its_seams(vae: Any) -> None:
    """Last section, first, then what is between."""
    decoder = SectionDecoder(HunyuanVideoCodec(vae), plan_of(3, "endpoints"))
    assert [decoder.run(index) for index in range(3)] == [range(89, 109), range(25), range(25, 89)]


def test_aligned_follows_the_codecs_numbers(vae: Any) -> None:
    other = AutoencoderKLHunyuanVideo.from_config(vae.config).eval()
    other.load_state_dict(vae.state_dict())
    other.tile_sample_min_num_frames, other.tile_sample_stride_num_frames = 32, 24
    plan = plan_of(3)
    latents = latents_for(plan)
    whole = decoded_at_once(other, latents)
    assert not torch.equal(whole, decoded_at_once(vae, latents))
    windows = AlignedWindows(HunyuanVideoCodec(other), plan)
    parts = [windows.pixels(index, reader(latents)) for index in range(3)]
    assert torch.equal(torch.cat(parts[::-1], dim=2), whole)


def official_video(vae: Any, plan: Plan, latents: Tensor) -> Tensor:
    """The demo's loop: the whole pixel history grows by one soft append a section."""
    window = plan.config.window
    overlap = 4 * window - 3

    def append(earlier: Tensor, later: Tensor) -> Tensor:
        weights = torch.linspace(1, 0, overlap, dtype=torch.float16).view(1, 1, -1, 1, 1)
        blend = weights * earlier[:, :, -overlap:] + (1 - weights) * later[:, :, :overlap]
        return torch.cat([earlier[:, :, :-overlap], blend, later[:, :, overlap:]], dim=2)

    history = torch.zeros(1, 16, 0, *latents.shape[3:])
    pixels: Tensor | None = None
    if plan.order == "forward":
        history = latents[:, :, :1]
    for section in plan.sections:
        new = latents[:, :, section.frames[0] : section.frames[-1] + 1]
        is_last = section.frames[0] == 1
        if plan.order == "forward":
            history = torch.cat([history, new], dim=2)
            decoded = history if pixels is None else history[:, :, -2 * window :]
        else:
            new = torch.cat([latents[:, :, :1], new], dim=2) if is_last else new
            history = torch.cat([new, history], dim=2)
            count = 2 * window + 1 if is_last else 2 * window
            decoded = history if pixels is None else history[:, :, :count]
        current = decoded_at_once(vae, decoded).half()
        if pixels is None:
            pixels = current
        elif plan.order == "forward":
            pixels = append(pixels, current)
        else:
            pixels = append(current, pixels)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("order", ["inverted", "forward"])
@pytest.mark.parametrize("num_sections", [1, 2, 3, 5])
def test_official_is_the_demos_last_file(vae: Any, order: str, num_sections: int) -> None:
    plan = plan_of(num_sections, order)
    latents = latents_for(plan)
    expected = uint8_literally(official_video(vae, plan, latents))[0].transpose(1, 2, 3, 0)
    assert len(expected) == plan.num_pixel_frames
    codec = HunyuanVideoCodec(vae)
    decoder = SectionDecoder(codec, plan, "official")
    covered: list[int] = []
    for index in range(num_sections):
        run = decoder.decode(index, reader(latents))
        frames = range(run.first_frame, run.first_frame + len(run.frames))
        assert frames == decoder.run(index)
        assert np.array_equal(run.frames, expected[frames.start : frames.stop])
        fresh = SectionDecoder(codec, plan, "official").decode(index, reader(latents))
        assert np.array_equal(fresh.frames, run.frames)
        covered.extend(frames)
    assert sorted(covered) == list(range(plan.num_pixel_frames))


def test_deliveries_differ_in_the_picture(vae: Any) -> None:
    plan = plan_of(2)
    latents = latents_for(plan)
    aligned, official = (
        SectionDecoder(HunyuanVideoCodec(vae), plan, name) for name in ("aligned", "official")
    )
    whole = aligned.decode(0, reader(latents)), aligned.decode(1, reader(latents))
    together = np.concatenate([run.frames for run in whole[::-1]])
    assert not np.array_equal(official.decode(1, reader(latents)).frames, together)


def ramp(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None].expand(1, 3, -1, 1, 1)


def test_soft_append_golden() -> None:
    golden = json.loads(GOLDEN.read_text())["soft_append_5_6_ov3"]
    joined = soft_append(ramp(0, 1, 2, 3, 4), ramp(10, 11, 12, 13, 14, 15), 3)
    assert joined.shape == (1, 3, 8, 1, 1)
    assert all(channel.flatten().tolist() == golden for channel in joined[0])


def test_soft_append_without_overlap_is_a_concatenation() -> None:
    assert soft_append(ramp(0, 1), ramp(5, 6), 0)[0, 0].flatten().tolist() == [0, 1, 5, 6]


def test_soft_append_refuses_an_overlap_longer_than_a_clip() -> None:
    with pytest.raises(ValueError, match="overlap of 3"):
        soft_append(ramp(0, 1), ramp(0, 1, 2, 3, 4), 3)


def test_official_needs_sections_side_by_side(vae: Any) -> None:
    with pytest.raises(InvalidRequest, match="use aligned"):
        SectionDecoder(HunyuanVideoCodec(vae), plan_of(3, "endpoints"), "official")


def test_unknown_delivery_names_the_known_ones(vae: Any) -> None:
    with pytest.raises(InvalidRequest, match="aligned, official"):
        SectionDecoder(HunyuanVideoCodec(vae), plan_of(1), "blurred")


def test_bytes_are_clamped_and_truncated() -> None:
    values = torch.tensor([-2.0, -1.0, -0.999, 0.0, 0.9999, 1.0, 3.0])
    pixels = values[None, None, :, None, None].expand(1, 3, -1, 1, 1)
    assert to_uint8(pixels)[:, 0, 0, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]
