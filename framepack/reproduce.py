"""`framepack reproduce`: make a video again from the manifest the service wrote with it.

The same request, picture and engine give the same bytes. Where they do not come out, the manifest
says in what the engine here is another than the one there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framepack.errors import InvalidRequest
from framepack.generation.plan import GenerationRequest, PromptAt, plan_generation

if TYPE_CHECKING:
    from framepack.presets import Models, Part

_PARTS: Mapping[str, tuple[Part, ...]] = {
    "render": ("encoders", "transformer"),
    "deliver": ("codec",),
}
"""What the service's engines consist of."""


@dataclass(frozen=True)
class Recipe:
    """A manifest, read.

    Attributes:
        request: What was asked for, with nothing left to defaults.
        pictured: Whether there was a picture.
        engines: Details of each engine, by its name; empty where they were not kept.
        sha256: Of the video.
    """

    request: GenerationRequest
    pictured: bool
    engines: Mapping[str, Mapping[str, str]]
    sha256: str


def read_recipe(path: Path) -> Recipe:
    """Read a manifest.

    Raises:
        InvalidRequest: It is none, or holds what this version does not know.
    """
    try:
        found = json.loads(path.read_text())
        if (found["object"], found["version"]) != ("manifest", 1):
            raise InvalidRequest("manifest", f"{path} is not of version 1; use a newer framepack")
        engines = {name: each["details"] or {} for name, each in found["engines"].items()}
        request, sha256 = dict(found["request"]), str(found["video"]["sha256"])
        pictured = found["image"] is not None
    except OSError as error:
        raise InvalidRequest("manifest", f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidRequest("manifest", f"{path} is no manifest of a video") from None
    return Recipe(_request(request), pictured, engines, sha256)


def _request(given: dict[str, Any]) -> GenerationRequest:
    known = {field.name for field in fields(GenerationRequest)}
    if unknown := sorted(set(given) - known):
        raise InvalidRequest(
            "manifest", f"this version knows no {', '.join(unknown)}; use the one it was made with"
        )
    later = tuple(PromptAt(**each) for each in given.pop("later_prompts", ()))
    return GenerationRequest(**given, later_prompts=later)


def differences(recipe: Recipe, models: Models) -> list[str]:
    """In what the engines here are others than those of the manifest, one line each."""
    from framepack.presets import engine_fingerprint

    lines = []
    for name, parts in _PARTS.items():
        there, here = recipe.engines.get(name, {}), engine_fingerprint(models, parts).details
        lines += [
            f"{name}: {key} was {there.get(key, 'not set')}, is {here.get(key, 'not set')}"
            for key in sorted({*there, *here} if there else ())
            if there.get(key) != here.get(key)
        ]
    return lines


def add_reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `framepack reproduce`."""
    add = parser.add_argument
    add("manifest", type=Path, metavar="MANIFEST.json", help="of GET /jobs/{id}/manifest")
    add("image", type=Path, nargs="?", metavar="IMAGE", help="the picture, if there was one")
    add("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    add("--weights", type=Path, metavar="FOLDER", help="local weights instead of the hub's")
    add("--device", help="cpu, cuda, cuda:1 ... (a GPU if there is one)")
    add("--placement", default="resident", help="as of generate (%(default)s)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Make the video and compare; 0 if it is the same, byte by byte."""
    recipe = read_recipe(options.manifest)
    if recipe.pictured != (options.image is not None):
        needed = "name the picture it was made from" if recipe.pictured else "it had no picture"
        raise InvalidRequest("image", needed)
    if not options.output.parent.is_dir():
        raise InvalidRequest("output", f"there is no folder {options.output.parent}")
    differ = _make(recipe, options)
    same = hashlib.sha256(options.output.read_bytes()).hexdigest() == recipe.sha256
    sys.stdout.write(f"{options.output}: {'the same bytes' if same else 'other bytes'}\n")
    if not same:
        reasons = differ or ["the engines are the same, so is it another picture?"]
        sys.stderr.write("".join(f"framepack: {reason}\n" for reason in reasons))
    return 0 if same else 1


def _make(recipe: Recipe, options: argparse.Namespace) -> list[str]:
    """Make the video; in what the engines differ."""
    import torch

    from framepack.generation.generate import generate
    from framepack.media.images import open_image
    from framepack.presets import load_preset

    if (threads := recipe.engines.get("render", {}).get("threads")) is not None:
        torch.set_num_threads(int(threads))  # sums round otherwise
    image = None if options.image is None else open_image(options.image)
    plan = plan_generation(recipe.request, None if image is None else image.shape[:2])
    models = load_preset(
        plan.request.preset, options.weights, options.device, placement=options.placement
    )
    for _ in generate(models, plan, image, options.output):
        pass
    return differences(recipe, models)
