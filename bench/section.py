"""A section's transformer calls, ours against diffusers', on the same weights and inputs.

Theirs is `HunyuanVideoFramepackTransformer3DModel`, called as its pipeline calls it: text padded to
256 tokens with a mask, everything given at every step. Ours prepares once and predicts at every
step; the preparation counts. Calls alternate, so that both see the same noise of the machine, and
medians are compared. Encoders and autoencoder are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from torch import Tensor, nn

from bench._common import emit
from framepack.models.base import LevelLatents, TextCondition
from framepack.models.fused import FusedLinear, fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.packing.schedule import Kernel, Level

IMAGE_TOKENS, TEXT_TOKENS, TEXT_LENGTH = 729, 60, 256
GUIDANCE = 10.0


@dataclass(frozen=True)
class Inputs:
    """Of one section, on the device and in the dtype that is measured."""

    target: Tensor
    one: Tensor
    two: Tensor
    four: Tensor
    text: Tensor
    pooled: Tensor
    image: Tensor
    window: int

    @property
    def mask(self) -> Tensor:
        """(1, 256) which text tokens are valid."""
        mask = torch.zeros(1, TEXT_LENGTH, device=self.text.device)
        mask[:, :TEXT_TOKENS] = 1
        return mask

    @property
    def positions(self) -> dict[str, Tensor]:
        """RoPE positions as the released inverted order lays its first section out."""
        w = self.window
        names = ("start", "target", "one", "two", "four")
        parts = torch.split(torch.arange(1 + w + 1 + 2 + 16), [1, w, 1, 2, 16])
        found = {n: p.to(self.target.device) for n, p in zip(names, parts, strict=True)}
        return {**found, "clean": torch.cat([found["start"], found["one"]])}


def make_inputs(config: HunyuanVideoConfig, side: int, window: int, like: Tensor) -> Inputs:
    """Random inputs with the numbers of frames and tokens of a real section."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    text = draw(1, TEXT_LENGTH, config.text_embed_dim)
    latents = {n: draw(1, 16, f, side, side) for n, f in (("one", 2), ("two", 2), ("four", 16))}
    return Inputs(
        target=draw(1, 16, window, side, side),
        text=text,
        pooled=draw(1, config.pooled_projection_dim),
        image=draw(1, IMAGE_TOKENS, config.image_proj_dim),
        window=window,
        **latents,
    )


def their_call(model: nn.Module, given: Inputs) -> Callable[[Tensor], Tensor]:
    """One step of diffusers' pipeline."""
    at = given.positions
    fixed: dict[str, Any] = {
        "encoder_hidden_states": given.text,
        "encoder_attention_mask": given.mask,
        "pooled_projections": given.pooled,
        "image_embeds": given.image,
        "indices_latents": at["target"],
        "guidance": torch.tensor([GUIDANCE * 1000], device=given.text.device).to(given.text),
        "latents_clean": given.one,
        "indices_latents_clean": at["clean"],
        "latents_history_2x": given.two,
        "indices_latents_history_2x": at["two"],
        "latents_history_4x": given.four,
        "indices_latents_history_4x": at["four"],
        "return_dict": False,
    }

    def call(timestep: Tensor) -> Tensor:
        velocity: Tensor = model(hidden_states=given.target, timestep=timestep, **fixed)[0]
        return velocity

    return call


def our_section(model: PackedHunyuanVideo, given: Inputs) -> Callable[[], Callable[..., Tensor]]:
    """Our preparation, which returns our step."""
    at = given.positions
    levels = [
        LevelLatents(Kernel(4, 8, 8), given.four, at["four"][None]),
        LevelLatents(Kernel(2, 4, 4), given.two, at["two"][None]),
        LevelLatents(Kernel(1, 2, 2), given.one, at["clean"][None]),
    ]
    condition = TextCondition(given.text[:, :TEXT_TOKENS], given.pooled, given.image)
    side = (given.target.shape[-2], given.target.shape[-1])

    def prepare() -> Callable[..., Tensor]:
        prepared = model.prepare(levels, at["target"][None], side, condition, GUIDANCE)
        return lambda timestep: model.predict(given.target, timestep, prepared)

    return prepare


def compiled(blocks: Sequence[nn.ModuleList]) -> None:
    """Compile every block by itself, in place: regional compilation, as either side would use."""
    for block in (block for each in blocks for block in each):
        for layer in block.modules():
            if isinstance(layer, FusedLinear):
                layer.unpack()
        block.compile()


class Clock:
    """Times calls to their end, the device's queue included."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, call: Callable[[], Any]) -> tuple[float, Any]:
        self._wait()
        began = time.perf_counter()
        result = call()
        self._wait()
        return time.perf_counter() - began, result

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def build(options: argparse.Namespace) -> tuple[PackedHunyuanVideo, nn.Module]:
    """Ours and diffusers' with the same random weights."""
    dim = 128
    config = HunyuanVideoConfig(
        num_attention_heads=options.heads,
        attention_head_dim=dim,
        num_layers=options.double,
        num_single_layers=options.single,
    )
    theirs_only = {k: v for k, v in config.to_json().items() if k not in ("_class_name", "kernels")}
    torch.manual_seed(0)
    theirs: nn.Module = HunyuanVideoFramepackTransformer3DModel(**theirs_only)
    ours = PackedHunyuanVideo(config)
    ours.load_state_dict(theirs.state_dict())
    dtype = getattr(torch, options.dtype)
    for model in (ours, theirs):
        model.eval().requires_grad_(requires_grad=False).to(options.device, dtype)
    return ours, theirs


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, object]:
    """Alternate calls of both; seconds, their ratio, and how far the results are apart."""
    ours, theirs = build(options)
    fuse(ours)
    if options.compile:
        either: Any = theirs
        compiled([ours.transformer_blocks, ours.single_transformer_blocks])
        compiled([either.transformer_blocks, either.single_transformer_blocks])
    given = make_inputs(ours.config, options.side, options.window, next(ours.parameters()))
    their_step, prepare = their_call(theirs, given), our_section(ours, given)
    clock = Clock(options.device)
    times: dict[str, list[float]] = {"theirs": [], "ours": [], "prepare": []}
    levels = torch.linspace(1000, 120, options.steps).to(given.target)
    timesteps = torch.chunk(levels, options.steps)
    their_step(timesteps[0])
    prepare()(timesteps[0])
    furthest = 0.0
    for _ in range(options.rounds):
        took, step = clock(prepare)
        times["prepare"].append(took)
        for timestep in timesteps:
            took, expected = clock(partial(their_step, timestep))
            times["theirs"].append(took)
            took, found = clock(partial(step, timestep))
            times["ours"].append(took)
            furthest = max(furthest, float((found.float() - expected.float()).abs().max()))
    middle = {name: median(values) for name, values in times.items()}
    section = middle["prepare"] + options.steps * middle["ours"]
    return {
        "ratio": round(options.steps * middle["theirs"] / section, 3),
        "max_abs_difference": furthest,
        "tokens": _tokens(given),
        "median_seconds": {name: round(value, 4) for name, value in middle.items()},
        "seconds": {name: [round(value, 4) for value in values] for name, values in times.items()},
    }


def _tokens(given: Inputs) -> int:
    """Of the joint sequence."""
    height, width = given.target.shape[-2:]
    levels = (Level(given.window + 2, Kernel(1, 2, 2)), Level(2, Kernel(2, 4, 4)))
    image = sum(level.tokens(height, width) for level in (*levels, Level(16, Kernel(4, 8, 8))))
    return image + IMAGE_TOKENS + TEXT_TOKENS


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench section", description=__doc__)
    parser.add_argument("--heads", type=int, default=3, help="of 128 channels each")
    parser.add_argument("--double", type=int, default=6, help="double blocks")
    parser.add_argument("--single", type=int, default=12, help="single blocks")
    parser.add_argument("--side", type=int, default=24, help="latents across and down")
    parser.add_argument("--window", type=int, default=9, help="latent frames of a section")
    parser.add_argument("--steps", type=int, default=8, help="calls a section")
    parser.add_argument("--rounds", type=int, default=1, help="sections")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="both, block by block")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    emit("section", list(arguments), measure(options), as_json=options.json)
    return 0
