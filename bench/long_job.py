"""A long job through the whole service: do memory and work per section grow with the video?

Starts the service as `python -m service up` does, submits one job, and follows its events. For an
early and the last section it states the peak memory of every process so far (VmHWM: a growing
process cannot hide) and how long the section took in either lane, as the median of three
neighbours. Times are the Redis server's, from the event stream.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from PIL import Image

from service.client.client import Client
from service.contract import events
from service.contract.views import EventView
from service.up.stack import Stack

EARLY = 2
"""Counted from 1, as people do; the first section pays for caches that fill."""

NEIGHBOURS = 3


@dataclass
class Timeline:
    """When what happened to each section, in milliseconds, by its index from 0."""

    started: dict[int, float] = field(default_factory=dict)
    sampled: dict[int, float] = field(default_factory=dict)
    completed: dict[int, float] = field(default_factory=dict)

    def note(self, event: EventView) -> int | None:
        """Note an event; returns the section if it is complete now."""
        times = {
            events.SECTION_STARTED: self.started,
            events.SECTION_SAMPLED: self.sampled,
            events.SECTION_COMPLETED: self.completed,
        }.get(event.type)
        if times is None or event.at is None:
            return None
        section: int = event.data["section"]
        times[section] = event.at.timestamp()
        return section if event.type == events.SECTION_COMPLETED else None

    def sampling(self, section: int) -> float:
        """Seconds from claim to committed latents."""
        return self.sampled[section] - self.started[section]

    def delivering(self, section: int) -> float:
        """Seconds to a committed clip, from when its latents and the lane were there."""
        ready = max(self.sampled[section], self.completed.get(section - 1, 0.0))
        return self.completed[section] - ready


def peak_mib(pids: Mapping[str, int | None]) -> dict[str, float]:
    """The most memory each process has had resident so far, in MiB."""
    return {name: _high_water(pid) for name, pid in pids.items() if pid is not None}


def _high_water(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def measure(seconds: float, steps: int | None) -> dict[str, object]:
    """Run one job of so many seconds and describe it."""
    timeline, peaks = Timeline(), dict[str, dict[str, float]]()
    with (
        tempfile.TemporaryDirectory(prefix="framepack-bench-") as folder,
        Stack(Path(folder)) as stack,
        Client(stack.url, api_key=stack.api_key) as client,
    ):
        began = time.perf_counter()
        job = client.submit(_picture(), "a red ball slides right", seconds=seconds, steps=steps)
        last = job.plan.num_sections
        for event in client.events(job.id):
            section = timeline.note(event)
            if section is not None and section + 1 in (EARLY, last):
                peaks[str(section + 1)] = peak_mib(stack.pids)
        peaks["end"] = peak_mib(stack.pids)
        wall, final = time.perf_counter() - began, client.get(job.id)
    if final.status != "completed":
        raise RuntimeError(f"the job is {final.status}: {final.error}")
    return {
        "sections": last,
        "frames": job.plan.num_frames,
        "wall_seconds": round(wall, 1),
        "peak_mib": peaks,
        "sample_seconds": _around(timeline.sampling, last),
        "deliver_seconds": _around(timeline.delivering, last),
    }


def _around(took: Callable[[int], float], last: int) -> dict[str, float]:
    """Seconds around the early and around the last section."""
    early = range(EARLY - 1, EARLY - 1 + NEIGHBOURS)
    late = range(last - NEIGHBOURS, last)
    return {
        str(EARLY): round(median(took(section) for section in early), 3),
        str(last): round(median(took(section) for section in late), 3),
    }


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((256, 256)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench long_job", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the video")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the preset's")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    result = measure(options.seconds, options.steps)
    sys.stdout.write(json.dumps(result, indent=None if options.json else 2) + "\n")
    return 0
