"""What does a schedule cost, and does a section cost more the more history there is?

Prints two tables of every schedule and of all history unpacked: context tokens at 480p by length
of history (`framepack packing` prints that one alone), and seconds on `tiny`.

Section 2 and section 200 of one long video of `tiny`, each sampled with a single denoising step, in
CPU seconds; the least of several rounds, since whatever else runs only adds. Full context shows the
model all frames at k1, so its attention grows with the square of the history.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench._common import emit, environment
from bench._video import Video, long_plan
from bench.growth import sample
from framepack.generation.orders import ORDERS, Section
from framepack.packing.families import FAMILIES, FamilyOptions, fitted_schedule
from framepack.packing.report import (
    TABLE_MARKS,
    TABLE_SCHEDULES,
    packing_table,
    write_between,
)
from framepack.packing.schedule import PackingSchedule, parse_schedule

SECTIONS = (2, 200)
MARKS = ("<!-- packing seconds: begin -->", "<!-- packing seconds: end -->")


def schedules() -> dict[str, PackingSchedule]:
    """What is measured besides full context, by the labels of the table of tokens."""
    vanilla = parse_schedule(ORDERS["vanilla"].default_schedule)
    families = {name: fitted_schedule(name, vanilla, FamilyOptions()) for name in FAMILIES}
    return {label: parse_schedule(name) for label, name in TABLE_SCHEDULES.items()} | families


def full_context(index: int, window: int) -> Section:
    """A section (by time) that sees all frames before it at k1."""
    schedule = parse_schedule(f"td_f{1 + window * index}k1_g{window}")
    return ORDERS["vanilla"].sections(index + 1, schedule)[index]


def sections_of(schedule: PackingSchedule) -> dict[int, Section]:
    """The sections to measure, in the order of sampling, of a video one section longer."""
    sides = schedule.earlier_pack is not None, (schedule.later_pack or schedule.end_anchor)
    order = "inverted" if not sides[0] else "endpoints" if sides[1] else "vanilla"
    made = ORDERS[order].sections(SECTIONS[-1] + 1, schedule)
    return {number: made[number - 1] for number in SECTIONS}


@torch.inference_mode()
def measure(rounds: int) -> dict[str, dict[int, float]]:
    """CPU seconds by label and section."""
    video = Video.make(long_plan(SECTIONS[-1] + 1, "forward", steps=1))
    window = video.plan.config.window
    cases = {"full context": {n: full_context(n - 1, window) for n in SECTIONS}}
    cases |= {label: sections_of(schedule) for label, schedule in schedules().items()}
    history = video.history()
    sample(video, history, cases["geometric"][SECTIONS[0]])
    found: dict[str, dict[int, float]] = {}
    for _ in range(rounds):
        for label, sections in cases.items():
            for number, section in sections.items():
                seconds = sample(video, history, section)
                best = found.setdefault(label, {})
                best[number] = min(seconds, best.get(number, seconds))
    return found


def as_table(found: dict[str, dict[int, float]]) -> str:
    """Markdown."""
    first, last = SECTIONS
    rows = [["schedule", f"section {first}", f"section {last}", "growth"]]
    rows.append(["---", "---:", "---:", "---:"])
    for label, at in found.items():
        rows.append([label, f"{at[first]:.3f}", f"{at[last]:.3f}", f"{at[last] / at[first]:.2f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench packing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="renew a document's table")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    if options.write is not None:
        where = environment()
        note = (
            f"\nCPU seconds; {where['machine']}, load {where['load']}, {options.rounds} rounds.\n"
        )
        write_between(options.write, TABLE_MARKS, packing_table())
        write_between(options.write, MARKS, as_table(found) + note)
    if options.json:
        emit("packing", list(arguments), dict(found), as_json=True)
    else:
        sys.stdout.write(f"{packing_table()}\n{as_table(found)}")
    return 0
