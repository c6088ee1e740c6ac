"""How much of a job's wall time is the service's own: outside encoders, sampler and VAE.

Starts the service as `python -m service up` does, with traces sent to a collector in this process,
submits a job of one section over HTTP, then the one that is measured, and waits for its video. The
spans of the workers say when which model computed. Two figures: ``outside_share`` is the part of
the wall time, from before the request to the completed event, in which no model computed;
``render_outside_share`` is the part of the render lane's time, from its first to its last task, in
which it computed nothing, whatever the other lane did. Reports of steps, previews and fetched
latents lie inside a model's span and are no computing of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench._common import emit
from bench._video import PROMPT, picture
from service.client.client import Client
from service.contract import events
from service.up.stack import Stack
from tests.support.otlp import Collector, collecting

RENDER, DELIVER = "framepack-render", "framepack-deliver"
MODELS = {(RENDER, "encode", "encode"), (RENDER, "steps", "dit"), (DELIVER, "vae", "decode")}
"""Process, name of the span and name of the span around it, of what a model computes in."""

Interval = tuple[float, float]

TASKS = ("encode", "sample", "decode", "finish")
TELLING = "framepack.steps.telling_ns"
SECONDS_FOR_TRACES = 60.0
WARM_UP_SECONDS = 1.2


@dataclass(frozen=True)
class Stretch:
    """A span of a worker, in seconds since the epoch.

    Attributes:
        lane: Name of the process.
        name: Of the span.
        around: Name of the span around it; empty for a task's own.
        began: When.
        ended: When.
        telling: When in it reports and previews were told.
    """

    lane: str
    name: str
    around: str
    began: float
    ended: float
    telling: tuple[Interval, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began

    @property
    def is_model(self) -> bool:
        """Whether encoders, sampler or VAE compute in it."""
        return (self.lane, self.name, self.around) in MODELS

    @property
    def foreign(self) -> tuple[Interval, ...]:
        """What lies in a model's span and is none of its work."""
        if self.name == "fetch" and self.around == "vae":
            return ((self.began, self.ended),)
        return self.telling


@dataclass
class Shares:
    """What the figures are made of.

    Attributes:
        stretches: Of all workers.
    """

    stretches: Sequence[Stretch] = field(default_factory=list)

    def outside(
        self, began: float, ended: float, lanes: Iterable[str] = (RENDER, DELIVER)
    ) -> float:
        """Seconds between two times in which no model of these lanes computed."""
        busy = [part for lane in lanes for part in self._busy(lane)]
        return ended - began - sum(to - at for at, to in united(busy))

    def totals(self) -> dict[str, float]:
        """Seconds by process and span, tasks beside what is inside them."""
        found: dict[str, float] = {}
        for s in self.stretches:
            lane, telling = s.lane.removeprefix("framepack-"), sum(to - at for at, to in s.telling)
            kind = f"{lane} {'task ' if not s.around else ''}{s.name}"
            found[kind] = found.get(kind, 0.0) + s.seconds - telling
            if telling:
                found[f"{lane} telling"] = found.get(f"{lane} telling", 0.0) + telling
        return {name: round(seconds, 3) for name, seconds in sorted(found.items())}

    def _busy(self, lane: str) -> Iterator[Interval]:
        """When a lane's models computed: its processes do one thing at a time."""
        mine = [s for s in self.stretches if s.lane == lane]
        foreign = united(part for s in mine for part in s.foreign)
        for began, ended in united((s.began, s.ended) for s in mine if s.is_model):
            for at, to in foreign:
                if began < to and at < ended:
                    yield began, at
                    began = to
            yield began, ended

    def lane(self, name: str) -> tuple[float, float]:
        """From the beginning of a lane's first task to the end of its last."""
        tasks = [s for s in self.stretches if s.lane == name and not s.around]
        return min(s.began for s in tasks), max(s.ended for s in tasks)


def united(intervals: Iterable[Interval]) -> list[Interval]:
    """The same times as intervals that do not overlap, in order."""
    found: list[Interval] = []
    for began, ended in sorted(intervals):
        if found and began <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ended))
        elif ended > began:
            found.append((began, ended))
    return found


def told(span: Span) -> Iterator[Interval]:
    """When in a span reports and previews were told, in seconds since the epoch."""
    for each in span.attributes:
        if each.key == TELLING:
            times = [value.int_value for value in each.value.array_value.values]
            for at, to in zip(times[::2], times[1::2], strict=True):
                yield (span.start_time_unix_nano + at) / 1e9, (span.start_time_unix_nano + to) / 1e9


def stretches(spans: Sequence[tuple[str, Span]]) -> Iterator[Stretch]:
    """The workers' spans."""
    names = {span.span_id: span.name for who, span in spans if who in (RENDER, DELIVER)}
    for who, span in spans:
        if span.span_id in names:
            yield Stretch(
                who,
                span.name,
                names.get(span.parent_span_id, ""),
                span.start_time_unix_nano / 1e9,
                span.end_time_unix_nano / 1e9,
                tuple(told(span)),
            )


def run_job(client: Client, seconds: float, steps: int | None) -> tuple[float, float, int]:
    """Make one video: when it was asked for, when it was done, how many sections it has."""
    began = time.time()
    job = client.submit(picture(), PROMPT, seconds=seconds, steps=steps)
    ended = [
        event.at.timestamp()
        for event in client.events(job.id)
        if event.type == events.COMPLETED and event.at is not None
    ]
    if not ended:
        final = client.get(job.id)
        raise RuntimeError(f"the job is {final.status}: {final.error}")
    return began, ended[0], job.plan.num_sections


def awaited(collector: Collector, began: float, sections: int) -> list[Stretch]:
    """The spans of the workers since a time; they send them when they stop at the latest."""
    deadline = time.monotonic() + SECONDS_FOR_TRACES
    while True:
        found = [s for s in stretches(list(collector.spans)) if s.began >= began]
        if sum(s.name in TASKS and not s.around for s in found) >= 2 * sections + 2:
            return found
        if time.monotonic() > deadline:
            raise RuntimeError("the workers' traces have not come; is the extra tracing installed?")
        time.sleep(0.2)


def measure(seconds: float, steps: int | None) -> dict[str, object]:
    """Run one job and describe it."""
    with (
        tempfile.TemporaryDirectory(prefix="framepack-bench-") as folder,
        collecting() as collector,
    ):
        os.environ["FRAMEPACK_TRACES_ENDPOINT"] = collector.url
        with Stack(Path(folder)) as stack, Client(stack.url, api_key=stack.api_key) as client:
            run_job(client, WARM_UP_SECONDS, steps)  # models load, their first calls are slow
            began, ended, sections = run_job(client, seconds, steps)
        shares = Shares(awaited(collector, began, sections))
    outside = shares.outside(began, ended)
    first, last = shares.lane(RENDER)
    alone = shares.outside(first, last, [RENDER])
    return {
        "outside_share": round(outside / (ended - began), 4),
        "render_outside_share": round(alone / (last - first), 4),
        "sections": sections,
        "wall_seconds": round(ended - began, 2),
        "outside_seconds": round(outside, 3),
        "until_first_task_seconds": round(first - began, 3),
        "render_seconds": round(last - first, 2),
        "after_render_seconds": round(ended - last, 2),
        "seconds_by_span": shares.totals(),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench service", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the video")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the preset's")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    emit("service", list(arguments), measure(options.seconds, options.steps), as_json=options.json)
    return 0
