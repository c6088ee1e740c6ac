"""A training configuration: one YAML file, read into frozen dataclasses, nothing guessed."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from framepack.errors import InvalidRequest
from framepack.models.tiny import SIZES
from framepack.presets import PRESETS
from framepack.training.codec import CodecTraining
from framepack.training.files import FileData
from framepack.training.limits import check_ranges
from framepack.training.previews import PreviewSettings
from framepack.training.transformer import TransformerTraining
from framepack.world.scene import FIRST_HELD_OUT_SEED, Cast

C = TypeVar("C")


@dataclass(frozen=True)
class WorldData:
    """Clips of the procedural world.

    Attributes:
        clips: How many to train on, seeds from ``first_seed``.
        held_out: How many to measure on, seeds from `FIRST_HELD_OUT_SEED`.
        latent_frames: Of each clip, the start frame included.
        first_seed: Of the training clips.
        pixels: Height and width.
        cast: What things may be; None for what base models are trained on.
    """

    clips: int
    held_out: int
    latent_frames: int = 46
    first_seed: int = 100_000
    pixels: int = 64
    cast: Cast | None = None

    def __post_init__(self) -> None:
        whole = (1, math.inf)
        check_ranges(self, "data", clips=whole, held_out=whole, latent_frames=(2, math.inf))
        check_ranges(self, "data", first_seed=(0, math.inf), pixels=(16, math.inf))
        if self.pixels % 16:
            raise InvalidRequest("data.pixels", f"must be a multiple of 16, not {self.pixels}")
        if self.first_seed + self.clips > FIRST_HELD_OUT_SEED:
            raise InvalidRequest("data", "training seeds would reach into the held-out ones")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything `framepack train` needs to know.

    Attributes:
        data: What to train on.
        transformer: How to train the transformer.
        codec: How to train the autoencoder; None leaves it as it is.
        size: Key of `framepack.models.tiny.SIZES`.
        seed: Of all initial weights.
        start: Folder of a preset to go on from, or ``tiny`` for the shipped one; None starts from
            nothing, or from the hub's weights where the preset has them.
        preset: Key of `framepack.presets.PRESETS`: what is trained.
        previews: Videos made while the transformer is trained.
    """

    data: WorldData | FileData
    transformer: TransformerTraining
    codec: CodecTraining | None = None
    size: str = "tiny"
    seed: int = 0
    start: str | None = None
    preset: str = "tiny"
    previews: PreviewSettings | None = None

    def __post_init__(self) -> None:
        known = [name for name, preset in PRESETS.items() if preset.base == "hunyuan-video"]
        if self.preset not in known:
            raise InvalidRequest(
                "preset", f"{self.preset!r} cannot be trained; choose from {', '.join(known)}"
            )
        if self.size not in SIZES:
            raise InvalidRequest(
                "size", f"there is no {self.size!r}; choose from {', '.join(SIZES)}"
            )
        if self.transformer.distillation and self.start is None and self.preset == "tiny":
            raise InvalidRequest("distillation", "has nothing to learn from; name a start")


RECIPES = Path(__file__).parent / "recipes"
"""Configurations that come with the library."""


def find_config(name: Path) -> Path:
    """A file of that name, else the recipe of that name."""
    recipe = RECIPES / f"{name}.yaml"
    return recipe if not name.exists() and recipe.is_file() else name


def read_config(path: Path) -> TrainingConfig:
    """Read a configuration.

    Raises:
        InvalidRequest: The file cannot be read, or states something unknown, absent or of another
            type than expected; names the place.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidRequest("config", f"cannot read {path}: {error}") from error
    config = build(TrainingConfig, content, "config")
    if not config.transformer.arms:
        raise InvalidRequest("config.transformer.arms", "name at least one arm")
    return config


def build(cls: type[C], content: Any, place: str) -> C:
    """A dataclass from plain values, checked.

    Raises:
        InvalidRequest: See `read_config`.
    """
    if not isinstance(content, Mapping):
        raise InvalidRequest(place, f"expected settings, found {content!r}")
    known = {f.name: f for f in fields(cast(Any, cls))}
    unknown = sorted(map(str, content.keys() - known.keys()))
    if unknown:
        raise InvalidRequest(place, f"unknown settings: {', '.join(unknown)}")
    needed = {
        name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING
    }
    if missing := sorted(needed - content.keys()):
        raise InvalidRequest(place, f"missing settings: {', '.join(missing)}")
    hints = get_type_hints(cls)
    return cls(**{k: _value(hints[k], v, f"{place}.{k}") for k, v in content.items()})


def _value(expected: Any, value: Any, place: str) -> Any:
    if is_dataclass(expected):
        return build(cast(type[Any], expected), value, place)
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _one_of([a for a in arguments if a is not type(None)], value, place)
    if origin is Literal:
        if value not in arguments:
            raise InvalidRequest(place, f"expected one of {list(arguments)}, found {value!r}")
        return value
    if origin is tuple:
        return _items(arguments, value, place)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not expected:
        raise InvalidRequest(place, f"expected {expected.__name__}, found {value!r}")
    return value


def _one_of(expected: list[Any], value: Any, place: str) -> Any:
    """A value of the only type it fits; of dataclasses, the one that has all settings named."""
    if len(expected) == 1:
        return _value(expected[0], value, place)
    if all(map(is_dataclass, expected)) and isinstance(value, Mapping):
        best = max(expected, key=lambda e: len(value.keys() & {f.name for f in fields(e)}))
        fitting = [e for e in expected if value.keys() <= {f.name for f in fields(e)}]
        return _value(fitting[0] if fitting else best, value, place)
    for each in expected:
        try:
            return _value(each, value, place)
        except InvalidRequest as error:
            refusal = error
    raise refusal


def _items(arguments: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InvalidRequest(place, f"expected a list, found {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise InvalidRequest(place, f"expected {len(arguments)} values, found {value!r}")
    return tuple(
        _value(each, item, f"{place}[{number}]")
        for number, (each, item) in enumerate(zip(arguments, value, strict=True))
    )
