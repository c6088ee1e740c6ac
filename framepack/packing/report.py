"""What a schedule costs, as text, JSON, a table of all, and `framepack packing` (torch-free).

*Full context* is the history the schedule's levels see, unpacked: the same latent frames at ``k1``.
The table has another axis, the length of the history, where full context means all of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

from framepack.errors import InvalidRequest, MediaError
from framepack.media.buckets import parse_size
from framepack.packing.accounting import (
    context_worth,
    full_context_tokens,
    geometric_bound,
    tail_frames,
    tail_kind,
    tail_tokens,
    tokens_at,
)
from framepack.packing.drawing import draw
from framepack.packing.families import FAMILIES, FamilyOptions, for_budget, named_schedule
from framepack.packing.schedule import PackingSchedule, parse_schedule

MOST_BUDGET = 10_000
"""Frames' worth; the notation ends at 99999 frames a level, and no history is as long."""

SPATIAL_COMPRESSION = 8
"""Pixels per latent pixel, each way, in all supported base models."""

LATENT_FRAMES_PER_SECOND = 30 / 4
TABLE_SECONDS = (1, 10, 100, 1000)
TABLE_SIZE = (832, 480)
"""(width, height) in pixels: the paper's 480p, 1560 tokens a frame."""

TABLE_SCHEDULES = {
    "released, inverted": "f1k1_x_g9_f1k1f2k2f16k4_td",
    "released, forward": "f1k1_x_td_f16k4f2k2f1k1_g9",
    "paper, vanilla": "td_f16k4f4k2f1k1_g9",
    "paper, with k8": "td_f8k8f4k4f2k2f1k1_g9",
    "paper, endpoint": "td_f16k4f4k2f1k1_g9_x_f1k1",
    "appended tail": "ta_f16k4f2k2f1k1_g9",
    "compressed tail": "tc_f16k4f2k2f1k1_g9",
}
"""What the table shows besides the families."""

TABLE_MARKS = ("<!-- packing table: begin -->", "<!-- packing table: end -->")


@dataclass(frozen=True)
class PackingReport:
    """A schedule on a latent grid.

    Attributes:
        schedule: The schedule.
        height: Of the latent grid; ``width`` likewise.
    """

    schedule: PackingSchedule
    height: int
    width: int

    @property
    def context_tokens(self) -> int:
        """Tokens of the packed history."""
        return self.schedule.context_tokens(self.height, self.width)

    @property
    def target_tokens(self) -> int:
        """Tokens of the generated frames."""
        return self.schedule.target_tokens(self.height, self.width)

    @property
    def full_context_tokens(self) -> int:
        """Tokens of the same history frames without packing."""
        frames = sum(level.frames for level in self.schedule.levels)
        return full_context_tokens(frames, self.height, self.width)

    @property
    def tail_tokens(self) -> dict[int, int]:
        """Tokens of the tail, beside ``context_tokens``, by seconds of history."""
        lengths = {seconds: _latent_frames(seconds) for seconds in TABLE_SECONDS}
        return {
            seconds: tail_tokens(
                self.schedule, tail_frames(self.schedule, frames), self.height, self.width
            )
            for seconds, frames in lengths.items()
        }

    @property
    def attention_ratio(self) -> float:
        """Attention's work against full context; it grows with the square of all tokens."""
        target = self.target_tokens
        return ((self.context_tokens + target) / (self.full_context_tokens + target)) ** 2

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints; levels oldest first, ``tail_tokens`` by seconds of history."""
        return {
            "schedule": str(self.schedule),
            "levels": [
                {
                    "kernel": str(level.kernel),
                    "frames": level.frames,
                    "tokens": level.tokens(self.height, self.width),
                }
                for level in self.schedule.levels
            ],
            "context_tokens": self.context_tokens,
            "target_tokens": self.target_tokens,
            "full_context_tokens": self.full_context_tokens,
            "tail_tokens": {str(seconds): count for seconds, count in self.tail_tokens.items()},
        }

    def to_text(self) -> str:
        """What a terminal shows."""
        lines = [str(self.schedule), f"{'kernel':>12} {'frames':>7} {'tokens':>8}"]
        for level in self.schedule.levels:
            tokens = level.tokens(self.height, self.width)
            lines.append(f"{level.kernel!s:>12} {level.frames:>7} {tokens:>8}")
        full, packed = self.full_context_tokens, self.context_tokens
        frames = sum(level.frames for level in self.schedule.levels)
        share = f", {packed / full:.1%} of full context" if full else ""
        lines += [
            f"{'context':>12} {frames:>7} {packed:>8}{share}",
            f"{'generated':>12} {self.schedule.window:>7} {self.target_tokens:>8}",
            f"{'full context':>12} {frames:>7} {full:>8}",
            f"attention work against full context: {self.attention_ratio:.1%}",
            self._bound(),
        ]
        if tail_kind(self.schedule) != "delete":
            counts = ", ".join(f"{count} at {s} s" for s, count in self.tail_tokens.items())
            lines.append(f"tokens of the tail beside them, by length of history: {counts}")
        return "\n".join(lines) + "\n"

    def _bound(self) -> str:
        """How the length before padding stands to the paper's bound for lambda = 2."""
        window, packed = self.schedule.window, context_worth(self.schedule)
        bound = geometric_bound(2, window)
        over = packed + window - bound
        stands = f"exceeded by {float(over):g}" if over > 0 else "kept"
        anchors = (self.schedule.start_anchor, self.schedule.end_anchor)
        if over > 0 and any(anchor is not None for anchor in anchors):
            stands += ", anchors included"
        if tail_kind(self.schedule) == "append":
            stands += " before its tail, which grows without bound"
        return (
            f"frames' worth of k1: {float(packed):g} + {window} generated; "
            f"bound of the geometric series {float(bound):g}, {stands}"
        )


def latent_grid(size: str) -> tuple[int, int]:
    """(height, width) of the latent grid of ``WIDTHxHEIGHT`` in pixels.

    Raises:
        InvalidRequest: Not two whole numbers, or no whole number of base tokens.
    """
    height, width = parse_size(size)
    step = 2 * SPATIAL_COMPRESSION
    if height % step or width % step:
        raise InvalidRequest("size", f"both sides must be multiples of {step}, as in 608x640")
    return height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION


def _latent_frames(seconds: int) -> int:
    return ceil(seconds * LATENT_FRAMES_PER_SECOND)


def packing_table() -> str:
    """Every schedule and family at 480p against the length of the history, as Markdown."""
    width, height = (side // SPATIAL_COMPRESSION for side in TABLE_SIZE)
    histories = [_latent_frames(seconds) for seconds in TABLE_SECONDS]
    named = {label: parse_schedule(name) for label, name in TABLE_SCHEDULES.items()}
    named |= {label: named_schedule(label) for label in FAMILIES}
    head = ["schedule", "name", *(f"{seconds} s" for seconds in TABLE_SECONDS)]
    rows = [head, ["---", "---", *["---:"] * len(histories)]]
    full = [full_context_tokens(history, height, width) for history in histories]
    rows.append(["full context", "every frame at k1", *map(str, full)])
    for label, schedule in named.items():
        tokens = [tokens_at(schedule, history, height, width) for history in histories]
        rows.append([label, f"`{schedule}`", *map(str, tokens)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_between(path: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between two marks of a document.

    Raises:
        InvalidRequest: The document has no such marks.
    """
    document, (begin, end) = path.read_text(encoding="utf-8"), marks
    if document.count(begin) != 1 or document.count(end) != 1:
        raise InvalidRequest("write_table", f"{path} needs one line {begin} and one {end}")
    before, rest = document.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def add_packing_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a subcommand's parser its arguments and its ``command``."""
    add = parser.add_argument
    families = ", ".join(FAMILIES)
    add(
        "name",
        nargs="?",
        metavar="NAME",
        help=f"a schedule, or one of: {families}, also with +D; none: a table",
    )
    add("--size", default="608x640", help="video size, WIDTHxHEIGHT in pixels (%(default)s)")
    add("--ratio", type=int, default=2, help="a family's lambda, a power of two (%(default)s)")
    add("--budget", metavar="FRAMES", help="a geometric schedule of this length, such as 2.625")
    add("--depth", type=int, default=5, help="a family's number of levels (%(default)s)")
    add("--json", action="store_true", help="print JSON")
    add("--svg", type=Path, metavar="FILE", help="draw the layout as well")
    add("--write-table", type=Path, metavar="FILE.md", help="renew the table of a document instead")
    parser.set_defaults(command=packing_command)


def packing_command(options: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Raises:
        InvalidRequest: A value cannot be served.
        MediaError: A file could not be read or written.
    """
    try:
        sys.stdout.write(_answer(options))
    except OSError as error:
        raise MediaError(f"{error.filename}: {error.strerror}") from error
    return 0


def _budget(options: argparse.Namespace) -> Fraction:
    if options.name is not None:
        raise InvalidRequest("budget", "a budget makes a schedule: leave its name out")
    try:
        budget = Fraction(options.budget)
    except (ValueError, ZeroDivisionError):
        raise InvalidRequest("budget", "write frames' worth of k1, such as 2.625 or 21/8") from None
    if not 0 < budget <= MOST_BUDGET:
        raise InvalidRequest("budget", f"must be above 0 and at most {MOST_BUDGET} frames")
    return budget


def _answer(options: argparse.Namespace) -> str:
    if options.write_table is not None:
        write_between(options.write_table, TABLE_MARKS, packing_table())
        return ""
    family = FamilyOptions(ratio=options.ratio, depth=options.depth)
    if options.budget is not None:
        schedule = for_budget(_budget(options), family)
    elif options.name is not None:
        schedule = named_schedule(options.name, family)
    else:
        return packing_table()
    report = PackingReport(schedule, *latent_grid(options.size))
    if options.svg is not None:
        drawing = draw(report.schedule, report.height, report.width)
        options.svg.write_text(drawing, encoding="utf-8")
    return json.dumps(report.to_json(), indent=2) + "\n" if options.json else report.to_text()
