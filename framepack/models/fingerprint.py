"""What decides the bytes of a video besides the request: the engine fingerprint.

Two engines with the same fingerprint give the same bytes for the same request and seed; nothing is
promised across fingerprints. It names weights by content, never by place, so every worker that
loads the same files states the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch


@dataclass(frozen=True)
class Fingerprint:
    """A fingerprint and what it was made from.

    Attributes:
        short: 16 hex digits.
        details: The settings by name, readable, for a manifest.
    """

    short: str
    details: Mapping[str, str]

    @classmethod
    def of(cls, details: Mapping[str, str]) -> Fingerprint:
        """The fingerprint of some settings."""
        ordered = dict(sorted(details.items()))
        digest = hashlib.sha256(json.dumps(ordered).encode()).hexdigest()
        return cls(short=digest[:16], details=ordered)


def library_versions(distributions: Sequence[str]) -> dict[str, str]:
    """Versions of installed distributions, as details."""
    return {f"version.{name}": version(name) for name in distributions}


def arithmetic(device: torch.device) -> dict[str, str]:
    """What of a device and of torch's settings changes sums, as details."""
    if device.type == "cuda":
        return {
            "device": torch.cuda.get_device_name(device),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "cudnn.benchmark": str(torch.backends.cudnn.benchmark),
            "tf32": f"matmul {torch.backends.cuda.matmul.allow_tf32}, "
            f"cudnn {torch.backends.cudnn.allow_tf32}",
        }
    return {
        "device": f"{device.type} {torch.backends.cpu.get_cpu_capability()}",
        "mkldnn": str(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        "threads": str(torch.get_num_threads()),
    }
