"""What measurements share: what ran where, and how a result is printed."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "redis", "rq", "fastapi", "av", "numpy")


def environment() -> dict[str, object]:
    """Machine and versions, to be read beside every result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": _machine(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "versions": found,
    }


def _machine() -> str:
    cores = f"{os.cpu_count()} {platform.machine()} cores"
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {cores}"
    return cores


def emit(name: str, arguments: object, result: Mapping[str, object], *, as_json: bool) -> None:
    """Print a result with the command and the environment it came from.

    Args:
        name: Of the measurement.
        arguments: Its command line, as parsed or given.
        result: Plain JSON values.
        as_json: One line of JSON, as committed under bench/results; else a list for people.
    """
    if as_json:
        document = {"bench": name, "arguments": arguments, **environment(), "result": result}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for key, value in result.items():
        sys.stdout.write(f"{key:28} {value}\n")
