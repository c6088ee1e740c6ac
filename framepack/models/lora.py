"""LoRA files: read in every dialect, written in those that others load, merged into a model.

A factor pair changes a module's weight by ``up @ down``. Alpha is folded into ``up`` when a file is
read and stays folded when it is written, so a reader that ignores alpha and one that takes the rank
for it both get the right change.

The dialects differ in how they name modules (`framepack.models.lora_names`) and the pair:

========== ======================================== ==========================
dialect    module                                   pair
========== ======================================== ==========================
diffusers  ``transformer.`` + ours                  ``.lora_A`` ``.lora_B``
kohya      ``lora_unet_`` + ours, underscores       ``.lora_down`` ``.lora_up``
original   ``diffusion_model.`` + the original's    ``.lora_A`` ``.lora_B``
========== ======================================== ==========================

Reading takes any mix of prefix, names and pair. A name that means nothing here is an error: a file
that loads without a word and changes nothing is the commonest complaint about LoRAs.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from framepack.errors import WeightsError
from framepack.models.hunyuan_video import HunyuanVideoConfig, PackedHunyuanVideo
from framepack.models.lora_names import Target, known_targets, original_targets

_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "lora_unet_")
_ROLES = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
_SHOWN = 12
"""Names that an error lists."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Factors:
    """A change of one weight.

    Attributes:
        down: (rank, inputs, ...) as the module's kernel has it.
        up: (outputs, rank), all scales folded in.
    """

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """Of the change."""
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """(outputs, inputs, ...) the change in fp32."""
        product = self.up.float() @ self.down.float().flatten(1)
        return product.reshape(-1, *self.down.shape[1:])


@dataclass(frozen=True)
class Lora:
    """Changes by module name, and what the file says of itself."""

    factors: Mapping[str, Factors]
    metadata: Mapping[str, str] = field(default_factory=dict)


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of the weight of every module that a LoRA can change: linear layers, convolutions."""
    kinds = (nn.Linear, nn.Conv3d)
    named = ((name, m) for name, m in model.named_modules() if isinstance(m, kinds))
    return {name: tuple(module.weight.shape) for name, module in named}


def layout_shapes(config: HunyuanVideoConfig) -> dict[str, tuple[int, ...]]:
    """`weight_shapes` of a layout, nothing loaded."""
    with torch.device("meta"):
        return weight_shapes(PackedHunyuanVideo(config))


def read_lora(path: Path, shapes: Shapes) -> Lora:
    """Read a file of any dialect.

    Args:
        path: A safetensors file.
        shapes: `weight_shapes` of the model it is for.

    Raises:
        WeightsError: The file is unreadable or no LoRA, or it names modules that the model has not,
            lacks half of a pair, or has another shape; lists what is wrong.
    """
    tensors, metadata = _tensors(path)
    pairs, unknown = _paired(tensors, known_targets(shapes.keys()))
    if unknown:
        found = sum(role != "alpha" for pair in pairs.values() for role in pair)
        raise WeightsError(
            f"{path.name}: {len(unknown)} of {len(tensors)} tensors mean nothing to this model "
            f"({found} do): {_listed(unknown)}"
        )
    targets = known_targets(shapes.keys())
    try:
        stated = _stated_alphas(metadata)
    except ValueError as error:
        raise WeightsError(f"{path.name}: {error}") from None
    factors: dict[str, Factors] = {}
    wrong: list[str] = []
    for name, pair in pairs.items():
        if missing := {"down", "up"} - pair.keys():
            wrong.append(f"{name} has no {missing.pop()} factor")
            continue
        try:
            split = _split(_scaled(name, pair, stated), targets[name], shapes)
            if twice := sorted(factors.keys() & split.keys()):
                wrong.append(f"{name}: another name in the file changes {_listed(twice)}, too")
            factors |= split
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    if wrong or not factors:
        raise WeightsError(f"{path.name}: " + (_listed(wrong) if wrong else "no tensors of a LoRA"))
    return Lora(factors, metadata)


@torch.no_grad()
def merge_lora(model: nn.Module, lora: Lora, scale: float = 1.0) -> None:
    """Add a LoRA to a model's weights, computed in fp32 and rounded once.

    Raises:
        WeightsError: A weight would become infinite, or no number; those before it are changed.
    """
    for name, factors in lora.factors.items():
        weight = model.get_submodule(name).get_parameter("weight")
        delta = factors.delta().to(weight.device)
        changed = (weight.float() + scale * delta).to(weight.dtype)
        if not changed.isfinite().all():
            raise WeightsError(f"the LoRA makes weights of {name} that {weight.dtype} cannot hold")
        weight.copy_(changed)


def write_lora(lora: Lora, shapes: Shapes, path: Path, dialect: str = "diffusers") -> None:
    """Write a file.

    Args:
        lora: For the modules of a model.
        shapes: `weight_shapes` of that model.
        path: The safetensors file.
        dialect: Key of `DIALECTS`.

    Raises:
        WeightsError: The dialect has no name for a module.
    """
    named = DIALECTS[dialect](lora.factors, shapes)
    # Cloned: modules that a fused one was split into share a factor, which a file cannot.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in named.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt", "dialect": dialect, **lora.metadata})


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path} as a safetensors file: {error}") from error


def _paired(
    tensors: Mapping[str, Tensor], targets: Mapping[str, Target]
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Tensors by module as the file names it, then by role; and the keys nobody knows."""
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for key, tensor in tensors.items():
        suffix = next((s for s in _ROLES if key.endswith(s)), "")
        name = key.removesuffix(suffix)
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if suffix and name in targets:
            pairs[name][_ROLES[suffix]] = tensor
        else:
            unknown.append(key)
    return dict(pairs), unknown


def _stated_alphas(metadata: Mapping[str, str]) -> Callable[[str, int], float]:
    """Alpha of a module whose tensors have none: PEFT's, which diffusers keeps as metadata.

    Raises:
        ValueError: The metadata is not of PEFT's form; what it means to say would change strengths.
    """
    try:
        content = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        settings = {key.removeprefix("transformer."): value for key, value in content.items()}
        pattern = dict(settings.get("alpha_pattern") or {})
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError("its lora_adapter_metadata cannot be read") from None

    def alpha(name: str, rank: int) -> float:
        stated = pattern.get(name, settings.get("lora_alpha", rank))
        if isinstance(stated, bool) or not isinstance(stated, int | float):
            raise ValueError("its lora_adapter_metadata states an alpha that is no number")
        return float(stated)

    return alpha


def _scaled(
    name: str, pair: Mapping[str, Tensor], stated: Callable[[str, int], float]
) -> dict[str, Tensor]:
    """A pair with alpha folded into ``up``.

    Raises:
        ValueError: It holds something else than matrices of finite numbers.
    """
    down, up = pair["down"], pair["up"]
    for role, tensor in pair.items():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise ValueError(f"its {role} holds something else than finite numbers")
    if down.ndim < 2 or up.ndim < 2 or not down.shape[0]:
        raise ValueError(f"{list(down.shape)} and {list(up.shape)} are no factors")
    if "alpha" in pair and pair["alpha"].numel() != 1:
        raise ValueError("its alpha is not one number")
    alpha = pair["alpha"].item() if "alpha" in pair else stated(name, down.shape[0])
    if not math.isfinite(alpha):
        raise ValueError("its alpha is not finite")
    return {"down": down, "up": up.float() * (alpha / down.shape[0])}


def _split(pair: Mapping[str, Tensor], target: Target, shapes: Shapes) -> dict[str, Factors]:
    """Factors of each module that a pair stands for; they share ``down`` and split ``up``.

    Raises:
        ValueError: Shapes differ from the modules'.
    """
    down, up = pair["down"].float(), pair["up"].float().flatten(1)
    rows = [shapes[name][0] for name in target.modules]
    inputs = shapes[target.modules[0]][1:]
    expected = (down.shape[0], *inputs), (sum(rows), down.shape[0])
    if (tuple(down.shape), tuple(up.shape)) != expected:
        raise ValueError(f"{list(down.shape)} and {list(up.shape)}, not {expected}")
    if target.halves_swapped:
        up = up.roll(up.shape[0] // 2, dims=0)
    parts = zip(target.modules, torch.split(up, rows), strict=True)
    return {name: Factors(down, part) for name, part in parts}


def _as_diffusers(factors: Mapping[str, Factors], shapes: Shapes) -> dict[str, Tensor]:
    named = {}
    for name, pair in factors.items():
        named[f"transformer.{name}.lora_A.weight"] = pair.down
        named[f"transformer.{name}.lora_B.weight"] = _as_kernel(pair.up, pair.down)
    return named


def _as_kohya(factors: Mapping[str, Factors], shapes: Shapes) -> dict[str, Tensor]:
    named = {}
    for name, pair in factors.items():
        base = "lora_unet_" + name.replace(".", "_")
        named[f"{base}.lora_down.weight"] = pair.down
        named[f"{base}.lora_up.weight"] = _as_kernel(pair.up, pair.down)
        named[f"{base}.alpha"] = torch.tensor(float(pair.rank))
    return named


def _as_original(factors: Mapping[str, Factors], shapes: Shapes) -> dict[str, Tensor]:
    """Fused modules get all parts' ``down`` stacked and a block-diagonal ``up``: exact.

    Raises:
        WeightsError: A module has no name there, as packed history's projections.
    """
    targets = original_targets(shapes.keys())
    homeless = sorted(factors.keys() - {m for t in targets.values() for m in t.modules})
    if homeless:
        raise WeightsError(f"the original names have no word for {_listed(homeless)}")
    named: dict[str, Tensor] = {}
    for name, target in targets.items():
        pairs = [factors[module] for module in target.modules if module in factors]
        if not pairs:
            continue
        down = torch.cat([pair.down for pair in pairs])
        ups = [
            factors[m].up if m in factors else torch.zeros(shapes[m][0], 0) for m in target.modules
        ]
        up: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
        if target.halves_swapped:
            up = up.roll(up.shape[0] // 2, dims=0)
        named[f"diffusion_model.{name}.lora_A.weight"] = down
        named[f"diffusion_model.{name}.lora_B.weight"] = _as_kernel(up, down)
    return named


def _as_kernel(up: Tensor, down: Tensor) -> Tensor:
    """``up`` with as many dimensions as its ``down``, a kernel of ones for a convolution."""
    return up.reshape(*up.shape, *(1,) * (down.ndim - 2))


DIALECTS: Mapping[str, Callable[[Mapping[str, Factors], Shapes], dict[str, Tensor]]] = {
    "diffusers": _as_diffusers,
    "kohya": _as_kohya,
    "original": _as_original,
}
"""By the name a configuration uses."""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
