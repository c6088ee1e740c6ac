"""Compare the section loop with numbers that the official implementation produced.

A file of cases holds, for each, the settings of a whole loop and 96 single values of its result.
Model
and inputs are formulas, so nothing has to be downloaded: tensors sorted by name, the k-th filled
with ``0.25 sin(0.013 i^2 + 0.37 i + 1.7 k)`` over its flat index i, inputs with ``sin(0.73 i +
phase)``. These
weights react strongly to a wrong index or frame order: an index off by one moves values by 5e-2.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.generation.conditioning import Conditioning, Prompt
from framepack.generation.history import History
from framepack.generation.orders import ORDERS, Section
from framepack.generation.section import SamplingSettings, finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stepcache import TeaCacheSettings
from framepack.models.fused import fuse
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.packing.schedule import parse_schedule
from framepack.types import Latents

GOLDEN_CONFIG = HunyuanVideoConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=1,
    text_embed_dim=12,
    pooled_projection_dim=8,
    image_proj_dim=10,
    rope_axes_dim=(4, 6, 6),
)
"""The tiny transformer of the golden numbers: 148 tensors."""

VALID_TEXT_TOKENS = 6
DISTILLED_GUIDANCE = 10.0

Fill = Callable[[Tensor, int], Tensor]
"""(flat indices, number of the tensor) to values, in float64."""


def loop_weights(i: Tensor, k: int) -> Tensor:
    """Weights of the loop cases; see the module's text."""
    return 0.25 * torch.sin(0.013 * i**2 + 0.37 * i + 1.7 * k)


def golden_model(fill: Fill = loop_weights) -> PackedHunyuanVideo:
    """The tiny transformer with weights from a formula, fp32 on the CPU."""
    model = PackedHunyuanVideo(GOLDEN_CONFIG).requires_grad_(requires_grad=False).eval()
    for k, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        values = fill(torch.arange(tensor.numel(), dtype=torch.float64), k)
        if tensor.ndim == 1 and name.endswith("weight"):
            values = values + 1.0
        tensor.copy_(values.float().reshape(tensor.shape))
    return model


def wave(shape: Sequence[int], phase: float) -> Tensor:
    """``sin(0.73 i + phase)`` over the flat index, computed in float64, as fp32."""
    flat = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.73 * flat + phase).float().reshape(tuple(shape))


def golden_conditioning(height: int, width: int) -> Conditioning:
    """The inputs of the golden loops, text without its padding."""
    text = wave((1, 9, 12), 0.3)[:, :VALID_TEXT_TOKENS]
    return Conditioning(
        prompts=(Prompt(text, wave((1, 8), 0.5)),),
        negative=None,
        image=wave((1, 5, 10), 1.3),
        start=wave((1, 16, 1, height, width), 0.2),
    )


@dataclass(frozen=True)
class LoopCase:
    """Settings of one golden loop; names as in the file."""

    sampling: str
    n: int
    w: int
    steps: int
    seed: int
    H: int
    W: int
    tea: float | None = None

    @property
    def name(self) -> str:
        """For people."""
        cache = "" if self.tea is None else f", cache {self.tea:g}"
        return f"{self.sampling}, {self.n} sections, {self.steps} steps{cache}"

    def sections(self) -> tuple[Section, ...]:
        """The loop's sections."""
        order = ORDERS[self.sampling]
        schedule = parse_schedule(order.default_schedule).with_window(self.w)
        return order.sections(self.n, schedule)


def run_case(case: LoopCase, model: PackedHunyuanVideo) -> Latents:
    """Run a golden loop; all latents of the video in the order of time."""
    conditioning = golden_conditioning(case.H, case.W)
    history, generator = History(conditioning.start), noise_generator(case.seed)
    cache = None if case.tea is None else TeaCacheSettings(case.tea)
    settings = SamplingSettings(case.steps, DISTILLED_GUIDANCE, step_cache=cache)
    for section in case.sections():
        steps = sample_section(model, conditioning, section, history, settings, generator)
        history.add(section.frames, finish_section(steps))
    return history.frames(range(case.n * case.w + 1))


@dataclass(frozen=True)
class CaseResult:
    """How far a loop is from its golden numbers.

    Attributes:
        name: What was run.
        values: How many single values were compared.
        max_error: Largest absolute difference.
    """

    name: str
    values: int
    max_error: float


def compare(case: LoopCase, golden: dict[str, Any], model: PackedHunyuanVideo) -> CaseResult:
    """Run a loop and compare its picks."""
    latents = run_case(case, model)
    if list(latents.shape) != golden["shape"]:
        return CaseResult(case.name, 0, math.inf)
    flat = latents.flatten()
    errors = [abs(flat[int(i)].item() - value) for i, value in golden["picks"].items()]
    return CaseResult(case.name, len(errors), max(errors))


def run_verify(path: Path, *, as_json: bool, tolerance: float) -> int:
    """Verify all cases of a file and print the errors; 1 if one is over the tolerance, else 0.

    Raises:
        InvalidRequest: The file is not one of golden loops.
    """
    cases = _read(path)
    model = fuse(golden_model())  # what generation runs
    results = [compare(case, golden, model) for case, golden in cases]
    passed = all(result.max_error <= tolerance for result in results)
    sys.stdout.write(_as_json(results, tolerance) if as_json else _as_table(results, tolerance))
    return 0 if passed else 1


def _read(path: Path) -> list[tuple[LoopCase, dict[str, Any]]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cases"]
        cases = [
            (LoopCase(**{k: v for k, v in case.items() if k != "result"}), case["result"])
            for case in found
        ]
        wrong = [case.sampling for case, _ in cases if case.sampling not in ORDERS]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no golden loops"
        raise InvalidRequest("cases", f"cannot use {path}: {reason}") from None
    if wrong or not cases:
        raise InvalidRequest("cases", f"{path} names no case, or unknown orders: {wrong}")
    return cases


def _as_json(results: Sequence[CaseResult], tolerance: float) -> str:
    content = {
        "tolerance": tolerance,
        "passed": all(result.max_error <= tolerance for result in results),
        "cases": [asdict(result) for result in results],
    }
    return json.dumps(content, indent=1) + "\n"


def _as_table(results: Sequence[CaseResult], tolerance: float) -> str:
    width = max(len(result.name) for result in results)
    lines = [f"{'case':{width}}  values  max error"]
    for result in results:
        verdict = "ok" if result.max_error <= tolerance else f"over {tolerance:g}"
        lines.append(
            f"{result.name:{width}}  {result.values:6}  {result.max_error:9.2e}  {verdict}"
        )
    return "\n".join(lines) + "\n"
