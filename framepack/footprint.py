"""What memory a preset will take in each placement, before there is a device or any weights.

Weights are counted from the layouts, activations by running the shapes through the real code on
PyTorch's meta device and counting what is alive at once (`framepack.models.allocations`). Not
counted: the driver's and the libraries' own memory, and what the allocator loses to fragments; an
assumed reserve stands for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from framepack.errors import InvalidRequest
from framepack.generation.plan import GENERATION_CONFIGS, GenerationRequest, Plan, plan_generation
from framepack.media.buckets import parse_size
from framepack.models.allocations import peak_bytes
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.conditions import KeptModulation
from framepack.models.float8 import is_matrix
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.placement import Placement
from framepack.models.streaming import layers_of
from framepack.models.tiny import SIZES, untrained_models
from framepack.models.vae import attend_frame_by_frame
from framepack.presets import PRESETS, Precision

GIB = 2**30
PROMPT_TOKENS, IMAGE_TOKENS = 256, 729
"""Of the longest prompt and of a picture."""

WORDS: Mapping[str, str] = {
    "resident": "full speed",
    "staged": "full speed while sampling; each job first copies encoders and modulations once",
    "streamed": "every step copies the blocks that wait, beside computing: little is lost where a "
    "block computes longer than its copy takes (large videos, a fast bus); otherwise the bus is "
    "the limit",
    "float8": "half the copies and half the memory, matrices rounded to eight bits: lossy",
    "hostcodec": "frames are decoded on the host: minutes a section at full size; in the service "
    "run the deliver worker with FRAMEPACK_DEVICE=cpu instead",
}


@dataclass(frozen=True)
class Footprint:
    """One placement's memory.

    Attributes:
        placement: As `framepack generate --placement` reads it.
        parts: Bytes on the device by phase and by what they hold.
        host: Bytes of weights that wait on the host.
    """

    placement: str
    parts: Mapping[str, Mapping[str, int]]
    host: int

    @property
    def phase(self) -> str:
        """The phase that takes the most."""
        return max(self.parts, key=lambda phase: sum(self.parts[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes on the device at once."""
        return sum(self.parts[self.phase].values())


@dataclass(frozen=True)
class _Weights:
    """Bytes of a preset's weights.

    Attributes:
        around: Of the transformer, all but its blocks.
        modulations: Of its blocks.
        largest_modulation: Of one of them.
        blocks: Of each block without them.
        blocks8: The same with matrices as float8.
        encoder_layer: The largest of the encoders' layers, which come one by one.
        encoder_rest: The most that an encoder keeps beside its layers.
        encoder_sum: Of all encoders.
        codec: Of the autoencoder.
    """

    around: int
    modulations: int
    largest_modulation: int
    blocks: tuple[int, ...]
    blocks8: tuple[int, ...]
    encoder_layer: int
    encoder_rest: int
    encoder_sum: int
    codec: int


@dataclass(frozen=True)
class _Activations:
    """Bytes alive at once beside the weights."""

    step: int
    decode: int
    encode: int


class Planner:
    """Counts one preset at one size."""

    def __init__(self, preset: str, size: str | None = None) -> None:
        """Choose what to count.

        Args:
            preset: With HunyuanVideo as its base.
            size: ``WIDTHxHEIGHT``; the nearest shape is taken. Default: the preset's largest.

        Raises:
            InvalidRequest: There is no such preset, or its base cannot be counted.
        """
        if preset not in PRESETS or PRESETS[preset].base != "hunyuan-video":
            able = [name for name, each in PRESETS.items() if each.base == "hunyuan-video"]
            raise InvalidRequest("preset", f"choose one of: {', '.join(able)}")
        config = GENERATION_CONFIGS[preset]
        shape = max(config.buckets, key=lambda b: b[0] * b[1]) if size is None else parse_size(size)
        request = GenerationRequest(prompt="", preset=preset, seconds=120.0)
        self.plan = plan_generation(request, shape)
        self.precision = PRESETS[preset].precision["cuda"]
        self.weights = _weights(preset, self.precision)
        self.activations = _activations(self.plan, self.precision)

    def footprint(self, placement: Placement) -> Footprint:
        """Of one placement."""
        w, a = self.weights, self.activations
        eight_bits = placement.float8 or placement.float8_products
        blocks = w.blocks8 if eight_bits else w.blocks
        resident = placement.policy == "resident"
        staying = len(blocks) if placement.policy != "streamed" else placement.resident_blocks
        places = 2 * max(blocks[staying:], default=0)
        at_work = max(w.blocks) if placement.float8 else 0
        always = {
            "transformer, around the blocks": w.around,
            "transformer, blocks that stay": sum(blocks[:staying]),
            "transformer, places of streamed blocks": places,
            "transformer, modulations": w.modulations if resident else 0,
            "encoders": w.encoder_sum if resident else 0,
            "codec": w.codec if resident and not placement.host_codec else 0,
        }
        coming = 0 if resident else w.encoder_rest + 2 * w.encoder_layer
        codec = 0 if resident or placement.host_codec else w.codec
        decoding = 0 if placement.host_codec else a.decode
        phases = {
            "encode": {"encoders, while they work": coming, "activations": a.encode},
            "sample": {
                "a block as it computes": at_work,
                "a modulation on its way": 0 if resident else w.largest_modulation,
                "activations": a.step,
            },
            "decode": {"codec, while it works": codec, "activations": decoding},
        }
        waits = 0 if resident else w.modulations + w.encoder_sum + w.codec
        return Footprint(
            str(placement),
            {n: {k: v for k, v in (always | p).items() if v} for n, p in phases.items()},
            waits + sum(blocks[staying:]) + (w.codec if resident and placement.host_codec else 0),
        )

    def candidates(self, budget: int) -> list[Footprint]:
        """Placements, exact ones first and the fastest first, each with as many blocks as fit."""
        found = []
        for float8 in (False, True):
            for host in (False, True):
                simple = [Placement(p, 0, float8, host) for p in ("resident", "staged")]
                found += [self.footprint(each) for each in simple]
                found.append(self._fullest(float8, host, budget))
        return found

    def _fullest(self, float8: bool, host: bool, budget: int) -> Footprint:
        """Streaming with as many blocks as the budget lets stay."""
        count = len(self.weights.blocks)
        streamed = (
            self.footprint(Placement("streamed", staying, float8, host))
            for staying in range(count - 1, -1, -1)
        )
        least = self.footprint(Placement("streamed", 0, float8, host))
        return next((each for each in streamed if each.peak <= budget), least)


@cache
def _layout(preset: str) -> HunyuanVideoConfig:
    return SIZES["tiny"].transformer if preset == "tiny" else HunyuanVideoConfig()


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in (*module.parameters(), *module.buffers()))


@cache
def _fused(preset: str, dtype: torch.dtype) -> PackedHunyuanVideo:
    with torch.device("meta"):
        model = fuse(PackedHunyuanVideo(_layout(preset)).to(dtype))
    model.memo = None  # it looks conditions up by content, and here they have none
    return model


def _weights(preset: str, precision: Precision) -> _Weights:
    model = _fused(preset, precision.transformer)
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    kept = [[m for m in b.modules() if isinstance(m, KeptModulation)] for b in blocks]
    modulations = [_bytes(m) for each in kept for m in each]
    whole = [_bytes(b) - sum(map(_bytes, each)) for b, each in zip(blocks, kept, strict=True)]
    saved = [sum(_saved(name, t) for name, t in b.named_buffers()) for b in blocks]
    towers, vae = _others(preset, precision)
    layers = [layer for tower in towers for layer in layers_of(tower) or ()]
    rests = [_bytes(t) - sum(_bytes(x) for x in layers_of(t) or ()) for t in towers]
    return _Weights(
        around=_bytes(model) - sum(map(_bytes, blocks)),
        modulations=sum(modulations),
        largest_modulation=max(modulations),
        blocks=tuple(whole),
        blocks8=tuple(size - less for size, less in zip(whole, saved, strict=True)),
        encoder_layer=max(map(_bytes, layers)),
        encoder_rest=max(rests),
        encoder_sum=sum(map(_bytes, towers)),
        codec=_bytes(vae),
    )


def _saved(name: str, tensor: Tensor) -> int:
    """Bytes that float8 saves of a fused tensor."""
    if not is_matrix(name, tensor):
        return 0
    return tensor.nbytes - tensor.numel() - 4 * tensor.shape[0]


@cache
def _others(preset: str, precision: Precision) -> tuple[list[nn.Module], Any]:
    """Encoders without what is never run, and the codec, all on the meta device."""
    with torch.device("meta"):
        towers, vae = untrained_models("tiny") if preset == "tiny" else _released_models()
    attend_frame_by_frame(vae)
    # Not vae.to, which warns of dtypes that diffusers would rather choose itself.
    return [t.to(precision.encoders) for t in towers], nn.Module.to(vae, precision.codec)


def _released_models() -> tuple[list[nn.Module], Any]:
    """Llama 3 8B without the two layers that are never run, CLIP-L, SigLIP so400m; the VAE."""
    llama = LlamaConfig(
        vocab_size=128_320,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=30,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    clip = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    siglip = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    towers = [LlamaModel(llama), CLIPTextModel(clip), SiglipVisionModel(siglip)]
    return towers, AutoencoderKLHunyuanVideo()


def _activations(plan: Plan, precision: Precision) -> _Activations:
    model = _fused(plan.request.preset, precision.transformer)
    _, vae = _others(plan.request.preset, precision)
    section = max(plan.sections, key=lambda s: sum(len(c.frames) for c in s.context))
    area = plan.latent_size

    def latents(frames: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(1, 16, frames, *area, dtype=dtype, device="meta")

    levels = [
        LevelLatents(
            c.kernel,
            latents(len(c.frames), torch.float32),
            torch.zeros(1, len(c.frames), dtype=torch.long),
        )
        for c in section.context
    ]
    config = model.config

    def states(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=precision.encoders)

    condition = TextCondition(
        states(1, PROMPT_TOKENS, config.text_embed_dim),
        states(1, config.pooled_projection_dim),
        states(1, IMAGE_TOKENS, config.image_proj_dim),
    )
    positions = torch.zeros(1, len(section.frames), dtype=torch.long)
    with torch.inference_mode():
        prepared = model.prepare(levels, positions, area, condition, 10.0)
    held = prepared.history.nbytes + prepared.phases.nbytes + prepared.image.nbytes
    target = latents(len(section.frames), precision.transformer)
    # Sampler: noise, the estimates that it remembers, and the velocity, in fp32.
    sampler = 6 * latents(len(section.frames), torch.float32).nbytes
    step = peak_bytes(lambda: model.predict(target, torch.ones(1), prepared))
    window = latents(5, precision.codec)
    pixels = torch.empty(1, 3, 1, plan.height, plan.width, dtype=precision.codec, device="meta")
    return _Activations(
        step=step + held + sampler,
        decode=peak_bytes(lambda: vae.decoder(vae.post_quant_conv(window))),
        # Prompts are some hundred tokens: beside the picture they take nothing.
        encode=peak_bytes(lambda: vae.quant_conv(vae.encoder(pixels))),
    )


def parse_bytes(field: str, text: str) -> int:
    """``6G``, ``6GiB``, ``6144M``: powers of 1024, as graphics cards are sold.

    Raises:
        InvalidRequest: It is no size.
    """
    units = {"G": GIB, "M": 2**20}
    short = text.upper().removesuffix("IB").removesuffix("B")
    try:
        size = int(float(short[:-1]) * units[short[-1:]])
    except (KeyError, ValueError):
        raise InvalidRequest(field, "write a size such as 6G, 24G or 6144M") from None
    if size <= 0:
        raise InvalidRequest(field, "must be more than nothing")
    return size


def _chosen(every: Sequence[Footprint], budget: int) -> Footprint | None:
    """The first that fits; they come in the order of preference."""
    return next((each for each in every if each.peak <= budget), None)


def as_json(planner: Planner, every: Sequence[Footprint], budget: int) -> str:
    """For programs."""
    chosen = _chosen(every, budget)
    document = {
        "preset": planner.plan.request.preset,
        "size": f"{planner.plan.width}x{planner.plan.height}",
        "budget": budget,
        "chosen": None if chosen is None else chosen.placement,
        "placements": [{**asdict(each), "peak": each.peak} for each in every],
    }
    return json.dumps(document) + "\n"


def as_text(planner: Planner, every: Sequence[Footprint], budget: int) -> str:
    """For a terminal."""
    plan, chosen = planner.plan, _chosen(every, budget)
    lines = [
        f"{plan.request.preset} at {plan.width}x{plan.height}; "
        f"{budget / GIB:.2f} GiB for weights and activations",
        f"  {'placement':32} {'peak GiB':>9}  {'in':8} {'host GiB':>9}  fits",
    ]
    lines += [
        f"  {each.placement:32} {each.peak / GIB:9.2f}  {each.phase:8} {each.host / GIB:9.2f}  "
        f"{'yes' if each.peak <= budget else 'no'}"
        for each in every
    ]
    if chosen is None:
        lines.append("Nothing fits. Take a smaller --size, or a device with more memory.")
        return "\n".join(lines) + "\n"
    lines.append(f"--placement {chosen.placement}")
    for phase, parts in chosen.parts.items():
        lines.append(f"  {phase}: {sum(parts.values()) / GIB:.2f} GiB")
        lines += [f"    {name:40} {size / GIB:8.2f}" for name, size in parts.items()]
    words = chosen.placement.replace(":", "+").split("+")
    lines += [f"  {word}: {WORDS[word]}" for word in words if word in WORDS]
    return "\n".join(lines) + "\n"
