"""The device a worker computes on: the right one, how much memory it uses, how far it has come.

Nothing here makes the device wait: a worker queues denoising steps ahead of the GPU and only ever
waits for the step before the one it has just queued.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

CPU_PRESETS = frozenset({"tiny", "tiny-wan"})
"""Presets a CPU can serve; the others would take days for a video."""

PEAK_TFLOPS = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.4),
    ("GH200", 989.4),
    ("H200", 989.4),
    ("H20", 148.0),
    ("A100", 311.9),
    ("L40S", 362.0),
    ("RTX 4090", 165.2),
)
"""Dense bf16 TFLOP/s by part of a device's name, from its maker's data sheets; the first counts."""


class WrongDevice(Exception):  # noqa: N818 - reads as what it is at the raise site
    """The device is missing or not the one this worker is meant for."""


def choose_device(name: str, expected: str, presets: Iterable[str]) -> torch.device:
    """The device to compute on.

    Args:
        name: ``auto``, or as torch spells it.
        expected: Part of the device's name, "" for any. Naming the CPU allows every preset on it.
        presets: What will run on it.

    Raises:
        WrongDevice: It is not there, has another name, or cannot serve a preset.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise WrongDevice(f"{name!r} is no device: {error}") from error
    found = device_name(device)
    if expected.lower() not in found.lower():
        raise WrongDevice(f"{name} is {found}; this worker expects {expected}")
    heavy = sorted(set(presets) - CPU_PRESETS)
    if device.type == "cpu" and heavy and not expected:
        raise WrongDevice(
            f"a CPU cannot serve {', '.join(heavy)} in sensible time; "
            "set FRAMEPACK_EXPECT_DEVICE=cpu to do it nevertheless"
        )
    return device


def device_name(device: torch.device) -> str:
    """A device's name: the GPU's model, or ``cpu``.

    Raises:
        WrongDevice: It is not there.
    """
    if device.type != "cuda":
        return device.type
    index = device.index or 0
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise WrongDevice(f"there is no {device}: torch sees {torch.cuda.device_count()} GPUs")
    return torch.cuda.get_device_name(device)


def peak_flops(device: torch.device, stated_tflops: float | None) -> float:
    """Operations a second that utilisation is measured against; 0 where nobody says.

    Args:
        device: That is there.
        stated_tflops: What the operator says, which goes before what is known of the device.
    """
    if stated_tflops is not None:
        return stated_tflops * 1e12
    name = device_name(device)
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS if part in name), 0.0)


def memory_bytes(device: torch.device) -> dict[str, int]:
    """GPU memory by kind: allocated, reserved, peak. Empty for a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak": torch.cuda.max_memory_allocated(device),
    }


def start_peak(device: torch.device) -> None:
    """Measure the peak of what comes next. Host-side counters only: the device is not asked."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def release_memory(device: torch.device) -> None:
    """Give unused memory back after running out of it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Pace:
    """Holds the CPU to one denoising step ahead of the GPU.

    Unchecked, the CPU queues all steps of a section at once, reports them long before they are
    done, and cannot cancel those queued. Waiting for the step just queued would leave the GPU idle;
    waiting for the one before does not.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._previous: torch.cuda.Event | None = None

    def steps_done(self, queued: int) -> int:
        """How many of the steps queued so far are done; waits until at most one is not."""
        if self._device.type != "cuda":
            return queued
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = event
        return queued - 1
