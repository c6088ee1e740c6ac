"""Decode and encode a section's frames: aligned windows against the official two-window scheme.

The official scheme decodes two sections' latents with every section and cross-fades the overlap.
Both ways are called in turn for the same sections of one video. It also states what each keeps
between sections, and that the aligned frames are those of decoding the whole video at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median

import torch

from bench._common import emit
from bench._video import Video, long_plan
from framepack.generation.stitch import SectionDecoder, to_uint8
from framepack.generation.windows import decode_whole
from framepack.media.clips import encode_clip

WAYS = ("official", "aligned")


@torch.inference_mode()
def measure(sections: int, order: str) -> dict[str, object]:
    """Seconds of both ways over all sections but the first and the last, which differ in work."""
    video = Video.make(long_plan(sections, order))
    codec, fps = video.models.codec, video.plan.config.fps
    decoders = {way: SectionDecoder(codec, video.plan, way) for way in WAYS}
    decode: dict[str, list[float]] = {way: [] for way in WAYS}
    encode: dict[str, list[float]] = {way: [] for way in WAYS}
    whole = to_uint8(decode_whole(codec, video.latents))
    furthest = 0
    for index in range(sections):
        for way in WAYS:
            began = time.perf_counter()
            run = decoders[way].decode(index, video.latents_of)
            decoded = time.perf_counter()
            if len(run.frames):
                encode_clip(run.frames, run.first_frame, fps)
            encoded = time.perf_counter()
            if 0 < index < sections - 1:
                decode[way].append(decoded - began)
                encode[way].append(encoded - decoded)
            if way == "aligned":
                there = whole[run.first_frame : run.first_frame + len(run.frames)]
                furthest = max(furthest, int(abs(run.frames.astype(int) - there).max(initial=0)))
    middle = {way: median(decode[way]) for way in WAYS}
    both = {way: middle[way] + median(encode[way]) for way in WAYS}
    return {
        "ratio": round(middle["official"] / middle["aligned"], 3),
        "ratio_with_video_encoding": round(both["official"] / both["aligned"], 3),
        "max_abs_difference": furthest,
        "decode_seconds": {w: [round(s, 4) for s in decode[w]] for w in WAYS},
        "encode_seconds": {w: [round(s, 4) for s in encode[w]] for w in WAYS},
    }


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench delivery", description=__doc__)
    parser.add_argument("--sections", type=int, default=12)
    parser.add_argument("--order", default="inverted", choices=("inverted", "forward"))
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    result = measure(options.sections, options.order)
    emit("delivery", list(arguments), result, as_json=options.json)
    return 0
