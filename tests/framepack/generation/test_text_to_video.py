"""Videos from a prompt alone: what sections see, how much is delivered, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo

from framepack.errors import InvalidRequest
from framepack.generation.conditioning import Conditioning
from framepack.generation.encode import encode
from framepack.generation.generate import Finished, generate, sampling_settings
from framepack.generation.history import History, frames_needed, sections_needed
from framepack.generation.orders import ORDERS, Section, without_picture
from framepack.generation.plan import GENERATION_CONFIGS, GenerationRequest, Plan, plan_generation
from framepack.generation.section import finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stitch import SectionDecoder
from framepack.models.vae import HunyuanVideoCodec
from framepack.packing.schedule import Kernel, parse_schedule
from framepack.presets import Models, load_preset
from tests.reference import section_buffers as literal
from tests.reference.section_buffers import Pass

ABLE = [name for name, order in ORDERS.items() if not order.needs_picture]
KERNELS = {"one": Kernel(1, 2, 2), "two": Kernel(2, 4, 4), "four": Kernel(4, 8, 8)}


def plan_of(order: str, seconds: float = 3.6, schedule: str | None = None) -> Plan:
    request = GenerationRequest(
        "a red ball", order=order, seconds=seconds, steps=2, schedule=schedule
    )
    return plan_generation(request, None)


def seen(section: Section, kernel: Kernel, existing: set[int]) -> list[tuple[int | None, int]]:
    pairs = [
        (frame if frame in existing else None, position)
        for level in section.context
        if level.kernel == kernel
        for frame, position in zip(level.frames, level.positions, strict=True)
    ]
    return sorted(pairs, key=lambda pair: pair[1])


def assert_sees(section: Section, expected: Pass, existing: set[int]) -> None:
    assert list(section.frames) == expected.made
    assert list(section.positions) == expected.target
    ones = sorted(expected.start + expected.one, key=lambda pair: pair[1])
    assert seen(section, KERNELS["one"], existing) == ones
    assert seen(section, KERNELS["two"], existing) == expected.two
    assert seen(section, KERNELS["four"], existing) == expected.four


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("order", "reference"),
    [
        ("vanilla", lambda n: literal.text_forward(n, anchored=False)),
        ("forward", lambda n: literal.text_forward(n, anchored=True)),
        ("endpoints", lambda n: literal.planned(n, [n - 1], pictured=False)),
        ("planned", lambda n: literal.planned(n, [n - 1], pictured=False)),
    ],
)
def test_sections_see_what_the_literal_buffers_hold(
    order: str, reference: Callable[[int], list[Pass]], n: int
) -> None:
    made = ORDERS[order].sections(n, parse_schedule(ORDERS[order].default_schedule))
    existing: set[int] = set()
    for section, expected in zip(without_picture(made), reference(n), strict=True):
        assert_sees(section, expected, existing)
        existing |= set(section.frames)


@pytest.mark.parametrize("pictured", [True, False])
@pytest.mark.parametrize(
    ("n", "starts"), [(1, (0,)), (4, (0,)), (9, (0, 3, 6)), (7, (0, 1, 6)), (6, (0, 5))]
)
def test_planned_sections_see_what_the_literal_table_holds(
    n: int, starts: tuple[int, ...], pictured: bool
) -> None:
    """Several prompts: the last section of each is an endpoint."""
    made = ORDERS["planned"].sections(n, parse_schedule(ORDERS["planned"].default_schedule), starts)
    ends = [start - 1 for start in starts[1:]] + [n - 1]
    existing = {0} if pictured else set()
    sections = made if pictured else without_picture(made)
    for section, expected in zip(
        sections, literal.planned(n, ends, pictured=pictured), strict=True
    ):
        assert_sees(section, expected, existing)
        existing |= set(section.frames)


@pytest.mark.parametrize("tail", ["ta", "tc"])
def test_a_tail_leaves_the_picture_out(tail: str) -> None:
    plan = plan_of("vanilla", 12.0, f"{tail}_f2k2f1k1_g9")
    tails = [[lv for lv in s.context if lv.role != "pack"] for s in plan.sections]
    assert tails[0] == []
    assert [levels[0].frames for levels in tails[1:3]] == [
        tuple(range(1, 7)),
        tuple(range(1, 16)),
    ]
    pictured = plan_generation(plan.request, (64, 64))
    assert pictured.sections[1].context[0].frames == tuple(range(7))


def test_a_ranking_chooses_from_what_was_made() -> None:
    request = GenerationRequest("p", order="vanilla", seconds=3.6, ranking="hybrid")
    first, second, _ = plan_generation(request, None).sections
    assert first.candidates == ()
    assert second.candidates == tuple(range(1, 10))


@pytest.mark.parametrize("preset", GENERATION_CONFIGS)
@pytest.mark.parametrize("seconds", [1.2, 5.0, 120.0])
def test_frames_are_what_a_causal_codec_makes_of_the_sections(preset: str, seconds: float) -> None:
    plan = plan_generation(GenerationRequest("p", preset=preset, seconds=seconds), None)
    n, window = len(plan.sections), plan.config.window
    clips = [window] * n if plan.config.sections_apart else [window * n]
    assert plan.num_pixel_frames == sum(map(literal.pixel_frames, clips))
    pictured = plan_generation(plan.request, (64, 64))
    assert len(pictured.sections) == n
    assert (plan.height, plan.width) == plan.config.shape, "a size that the preset has"


@pytest.fixture(scope="module")
def models(nano_folder: Path) -> Models:
    return load_preset("tiny", nano_folder, "cpu")


def reader(latents: torch.Tensor) -> Callable[[Sequence[int]], torch.Tensor]:
    """Of frames 1 and up; frame 0 does not exist."""

    def latents_of(numbers: Sequence[int]) -> torch.Tensor:
        assert min(numbers) >= 1
        return latents[:, :, [number - 1 for number in numbers]]

    return latents_of


@pytest.mark.parametrize("order", ABLE)
@pytest.mark.parametrize("seconds", [1.2, 4.8])
def test_delivered_is_the_whole_decoded_at_once(
    nano_folder: Path, order: str, seconds: float
) -> None:
    """diffusers decodes all sections' latents as one clip; ours, section by section."""
    vae = AutoencoderKLHunyuanVideo.from_pretrained(nano_folder / "vae").eval()
    plan = plan_of(order, seconds)
    latents = torch.randn(
        1, 16, 9 * len(plan.sections), 4, 6, generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        whole = vae.decode(latents / vae.config.scaling_factor).sample
    assert whole.shape[2] == plan.num_pixel_frames == 36 * len(plan.sections) - 3
    codec = HunyuanVideoCodec(vae)
    resumed = SectionDecoder(codec, plan)
    for section in plan.sections:
        run = resumed.run(section.index)
        pixels = whole[:, :, run.start : run.stop].clamp(-1, 1) * 127.5 + 127.5
        expected = np.trunc(pixels[0].permute(1, 2, 3, 0).numpy()).astype(np.uint8)
        for decoder in (resumed, SectionDecoder(codec, plan)):
            found = decoder.decode(section.index, reader(latents))
            assert found.first_frame == run.start
            assert np.array_equal(found.frames, expected)


def test_official_delivery_fades_the_same_frames(nano_folder: Path) -> None:
    """The demo's forward loop with a counter that begins at 0: 33 frames, then 36 more each."""
    vae = AutoencoderKLHunyuanVideo.from_pretrained(nano_folder / "vae").eval()
    plan = plan_of("vanilla")
    latents = torch.randn(1, 16, 27, 4, 6, generator=torch.Generator().manual_seed(2))

    def decoded(part: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            pixels: torch.Tensor = vae.decode(part / vae.config.scaling_factor).sample
        return pixels.half()

    video = decoded(latents[:, :, :9])
    weights = torch.linspace(1, 0, 33, dtype=torch.float16).view(1, 1, -1, 1, 1)
    for end in (18, 27):
        new = decoded(latents[:, :, end - 18 : end])
        blend = weights * video[:, :, -33:] + (1 - weights) * new[:, :, :33]
        video = torch.cat([video[:, :, :-33], blend, new[:, :, 33:]], dim=2)
    assert video.shape[2] == plan.num_pixel_frames == 105
    decoder = SectionDecoder(HunyuanVideoCodec(vae), plan, "official")
    runs = [decoder.decode(index, reader(latents)) for index in range(3)]
    frames = np.concatenate([run.frames for run in runs])
    pixels = video[0].float().clamp(-1, 1) * 127.5 + 127.5
    assert np.array_equal(frames, pixels.permute(1, 2, 3, 0).numpy().astype(np.uint8))


def test_conditioning_without_a_picture_is_zeros(models: Models) -> None:
    plan = plan_of("vanilla")
    conditioning = encode(models.encoders, plan, None)
    pictured = plan_generation(plan.request, (64, 64))
    image = np.full((64, 64, 3), 90, np.uint8)
    usual = encode(models.encoders, pictured, image)
    assert conditioning.start.shape == usual.start.shape
    assert conditioning.image.shape == usual.image.shape
    assert conditioning.image.dtype == usual.image.dtype
    assert not conditioning.start.any()
    assert not conditioning.image.any()
    assert torch.equal(conditioning.prompts[0].text, usual.prompts[0].text)
    again = Conditioning.from_tensors(conditioning.to_tensors())
    assert torch.equal(again.start, conditioning.start)
    for made_for, given in ((plan, image), (pictured, None)):
        with pytest.raises(ValueError, match="for a picture or for none"):
            encode(models.encoders, made_for, given)


@pytest.mark.parametrize("order", ABLE)
def test_a_section_needs_only_committed_latents(models: Models, order: str) -> None:
    """What a worker after a crash is given: the sections it says it needs, nothing remembered."""
    plan = plan_of(order)
    conditioning = encode(models.encoders, plan, None)
    settings, generator = sampling_settings(plan), noise_generator(7)
    whole, states, made = History(conditioning.start), [], {}
    for section in plan.sections:
        states.append(generator.get_state())
        steps = sample_section(
            models.transformer, conditioning, section, whole, settings, generator
        )
        made[section.index] = finish_section(steps)
        whole.add(section.frames, made[section.index])
    for section in plan.sections:
        resumed = History(conditioning.start)
        for earlier in sections_needed(section, plan.sections):
            resumed.add(earlier.frames, made[earlier.index])
        fresh = torch.Generator()
        fresh.set_state(states[section.index])
        steps = sample_section(models.transformer, conditioning, section, resumed, settings, fresh)
        assert torch.equal(finish_section(steps), made[section.index])
        assert frames_needed(section).isdisjoint(set(section.frames) - {1})


def test_a_video_from_a_prompt_alone(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    hashes = []
    for _ in range(2):
        events = list(generate(models, plan_of("vanilla", 2.4), None, path))
        assert events[-1] == Finished(path, 69)
        hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def test_orders_that_need_a_picture_say_which_do_not() -> None:
    for name in sorted(set(ORDERS) - set(ABLE)):
        with pytest.raises(InvalidRequest, match=f"give an image.*{', '.join(ABLE)}") as caught:
            plan_of(name)
        assert caught.value.field == "order"
    assert sorted(set(ORDERS) - set(ABLE)) == ["inverted", "repeating"]


def test_a_preset_whose_order_needs_a_picture_takes_another() -> None:
    assert plan_generation(GenerationRequest("p", preset="framepack-i2v"), None).order == "vanilla"
    assert plan_generation(GenerationRequest("p", preset="framepack-f1"), None).order == "forward"


def test_a_size_is_asked_for() -> None:
    request = GenerationRequest("p", preset="framepack-f1", size="480x832")
    plan = plan_generation(request, None)
    assert (plan.height, plan.width) == (832, 480)
    pictured = plan_generation(request, (64, 64))
    assert (pictured.height, pictured.width) == (832, 480), "the picture is cropped to it"
    for wrong in ("large", "0x480", "480", "480X832"):
        with pytest.raises(InvalidRequest, match="such as 832x480") as caught:
            plan_generation(GenerationRequest("p", size=wrong), None)
        assert caught.value.field == "size"
