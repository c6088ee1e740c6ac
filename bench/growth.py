"""Do a section's seconds and memory grow with the video? Section 2, 20 and 200 of one long video.

Sections are measured in turn, several rounds, in CPU seconds, so noise of the machine meets all
alike. Memory is this process's peak while all sections of the video are
sampled and delivered one after the other, with as few steps as possible. Beside it stands what the
official demo does with every section: decode two windows, and encode the whole video so far again,
whose total grows with the square of the length.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench._common import emit
from bench._video import Video, long_plan
from framepack.generation.generate import sampling_settings
from framepack.generation.history import History, frames_needed
from framepack.generation.orders import Section
from framepack.generation.section import finish_section, sample_section
from framepack.generation.seeds import noise_generator
from framepack.generation.stitch import SectionDecoder
from framepack.media.clips import encode_clip


def sample(video: Video, history: History, section: Section) -> float:
    """Seconds to sample a section whose history is there."""
    settings, noise = sampling_settings(video.plan), noise_generator(1)
    began = time.process_time()
    finish_section(
        sample_section(
            video.models.transformer, video.conditioning, section, history, settings, noise
        )
    )
    return time.process_time() - began


def deliver(video: Video, index: int, *, officially: bool = False) -> float:
    """Seconds to decode and encode a section by a worker that did the one before it.

    Args:
        video: All latents are there.
        index: The section.
        officially: Decode two windows, and encode all frames so far.
    """
    way = "official" if officially else "aligned"
    decoder = SectionDecoder(video.models.codec, video.plan, way)
    decoder.decode(index - 1, video.latents_of)
    began = time.process_time()
    run = decoder.decode(index, video.latents_of)
    frames = run.frames
    if officially:
        window = video.plan.config.window * video.plan.config.temporal_compression
        frames = np.resize(frames, ((index + 1) * window, *frames.shape[1:]))
    encode_clip(frames, 0 if officially else run.first_frame, video.plan.config.fps)
    return time.process_time() - began


def total(at: dict[int, float], sections: int) -> float:
    """Seconds of all sections from a few measured ones, linear in between."""
    points = sorted(at.items())
    first, last = points[0], points[-1]
    known = [(1, first[1]), *points, (sections, last[1])]
    return (
        sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(known) if b > a)
        + (known[0][1] + known[-1][1]) / 2
    )


@torch.inference_mode()
def times(video: Video, sections: Sequence[int], rounds: int) -> dict[str, dict[int, float]]:
    """Median seconds by kind of work and section (counted from 1)."""
    history = video.history()
    kinds: dict[str, Callable[[int], float]] = {
        "sample": lambda index: sample(video, history, video.plan.sections[index]),
        "deliver": partial(deliver, video),
        "deliver_officially": partial(deliver, video, officially=True),
    }
    found: dict[str, dict[int, list[float]]] = {k: {s: [] for s in sections} for k in kinds}
    for call in kinds.values():
        call(sections[0] - 1)
    for _ in range(rounds):
        for kind, call in kinds.items():
            for section in sections:
                found[kind][section].append(call(section - 1))
    return {kind: {s: median(v) for s, v in by.items()} for kind, by in found.items()}


def peaks(video: Video, at: Sequence[int]) -> dict[int, float]:
    """Peak MiB of this process after some sections of a run from the first to the last one."""
    plan, codec = video.plan, video.models.codec
    settings, noise = sampling_settings(plan), noise_generator(1)
    history, decoder = History(video.conditioning.start), SectionDecoder(codec, plan)
    needed = [{*frames_needed(s), *decoder.latent_frames_needed(s.index)} for s in plan.sections]
    found: dict[int, float] = {}
    for section in plan.sections:
        steps = sample_section(
            video.models.transformer, video.conditioning, section, history, settings, noise
        )
        history.add(section.frames, finish_section(steps))
        run = decoder.decode(section.index, history.frames)
        encode_clip(run.frames, run.first_frame, plan.config.fps)
        history.keep(set().union(*needed[section.index + 1 : section.index + 3]))
        if section.index + 1 in at:
            found[section.index + 1] = _high_water()
    return found


def _high_water() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def measure(sections: Sequence[int], rounds: int, steps: int | None) -> dict[str, object]:
    """All of it; `ratio` is the official way's delivery of the whole video over ours."""
    last = sections[-1]
    length = last + 1  # the last section of a video delivers its end, which is other work
    memory = peaks(Video.make(long_plan(length, "inverted", steps=1)), sections)
    video = Video.make(long_plan(length, "inverted", steps))
    found = times(video, sections, rounds)
    ours = {s: found["sample"][s] + found["deliver"][s] for s in sections}
    return {
        "ratio": round(total(found["deliver_officially"], last) / total(found["deliver"], last), 2),
        "seconds_growth": round(ours[last] / ours[sections[0]], 3),
        "memory_growth": round(memory[last] / memory[sections[0]], 3),
        "peak_mib": memory,
        "median_cpu_seconds": {
            kind: {s: round(v, 4) for s, v in by.items()} for kind, by in found.items()
        },
    }


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench growth", description=__doc__)
    parser.add_argument("--sections", type=int, nargs="+", default=[2, 20, 200])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, help="denoising steps; default: the preset's")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    result = measure(sorted(options.sections), options.rounds, options.steps)
    emit("growth", list(arguments), result, as_json=options.json)
    return 0
