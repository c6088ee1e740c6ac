"""What the record's server knows about all jobs at once: how many wait, how much work is left.

Counters and durations are kept by the record's own script (``record_counts.lua``), so they are
exact through crashes and the same whichever gateway is asked. How many jobs stand where is counted
anew each time from the jobs themselves, so it cannot drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

from redis import Redis

from service.contract.connections import KEY_PREFIX
from service.contract.job import Lane
from service.contract.job_problems import RETRIED

SECONDS_PER_COST = 0.057
"""Before anything was measured: an H100 takes 0.98 s for a step of 17.2 thousand tokens."""

BOUNDS: Mapping[str, str] = {
    "queue_wait": "0.1 0.5 1 5 10 30 60 120 300 600 1800 3600 7200 +Inf",
    "job": "1 2 5 10 30 60 120 300 600 1200 1800 3600 7200 +Inf",
    "cancel": "0.05 0.1 0.25 0.5 1 2 5 10 30 60 +Inf",
}
"""Upper bounds in seconds of what is counted by duration, as ``record_counts.lua`` writes them."""

RETRY_REASONS = ("worker_lost", *RETRIED)

JOBS_AT_ONCE = 500
_FIELDS = ("preset", "status", "cost", "sections", "render.next", "render.ready", "deliver.ready")
_TURN_FIELDS = (
    "tenant",
    "priority",
    "preset",
    "status",
    "order",
    "cost",
    "sections",
    "render.next",
    "render.lease",
    "render.worker",
)

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Durations:
    """Durations that were counted: how many were at most so long, and their sum in seconds."""

    at_most: Mapping[str, int]
    sum_seconds: float


@dataclass(frozen=True)
class Census:
    """All jobs at one time.

    Attributes:
        open_jobs: Jobs that have not ended, by (preset, status).
        waiting: Tasks that a worker could take now, by (preset, lane).
        backlog_seconds: By preset, seconds one render worker needs for all that is left.
        counts: Counters by their words, the preset last: ("ended", "completed", "tiny").
        durations: By (name, preset): queue_wait, job, cancel.
    """

    open_jobs: Counter[Labels] = field(default_factory=Counter)
    waiting: Counter[Labels] = field(default_factory=Counter)
    backlog_seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[Labels, int] = field(default_factory=dict)
    durations: Mapping[Labels, Durations] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenJob:
    """A job that has not ended, as far as turns are concerned.

    Attributes:
        order: Of submission.
        cost: Of one section.
        sections_left: To be sampled.
        worker: Name of the one that renders it now.
    """

    id: str
    tenant: str
    priority: str
    preset: str
    status: str
    order: int
    cost: float
    sections_left: int
    worker: str | None


@dataclass(frozen=True)
class Paces:
    """Seconds that sections took lately, for one unit of section cost.

    Attributes:
        seconds: By preset for the render lane, by "deliver PRESET" for the other.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)

    def measured(self, preset: str) -> bool:
        """Whether a section of the preset was ever sampled here."""
        return preset in self.seconds

    def section(self, preset: str, cost: float) -> float:
        """Seconds a render worker needs for a section; an H100's, if nothing was measured."""
        return cost * self.seconds.get(preset, SECONDS_PER_COST)

    def delivery(self, preset: str, cost: float) -> float:
        """Seconds a deliver worker needs for a section; 0 if nothing was measured."""
        return cost * self.seconds.get(f"{Lane.DELIVER} {preset}", 0.0)


def take_census(redis: Redis) -> Census:
    """Count everything. Takes a round trip per 500 open jobs; raises what redis-py raises."""
    pace = cast(dict[str, str], redis.hgetall(f"{KEY_PREFIX}pace"))
    open_jobs: Counter[Labels] = Counter()
    waiting: Counter[Labels] = Counter()
    backlog: dict[str, float] = {}
    for _, (preset, status, cost, sections, done, *ready) in _open_jobs(redis, _FIELDS):
        if preset is None or status is None:
            continue  # damaged; the sweeper ends it
        open_jobs[preset, status] += 1
        for lane, pool in zip(Lane, ready, strict=True):
            waiting[preset, lane.value] += pool is not None
        each = float(cost or 0) * _seconds_per_cost(pace.get(preset))
        left = int(sections or 0) - max(0, int(done or 0) - 1)
        # What is paused or being cancelled asks for no worker.
        if status in ("queued", "running"):
            backlog[preset] = backlog.get(preset, 0.0) + left * each
    counts, durations = _counted(cast(dict[str, str], redis.hgetall(f"{KEY_PREFIX}counts")))
    return Census(open_jobs, waiting, backlog, counts, durations)


def _open_jobs(redis: Redis, fields: Sequence[str]) -> Iterator[tuple[str, Sequence[str | None]]]:
    ids = redis.sscan_iter(f"{KEY_PREFIX}open", count=JOBS_AT_ONCE)
    while some := list(islice(ids, JOBS_AT_ONCE)):
        with redis.pipeline(transaction=False) as pipeline:
            for job_id in some:
                pipeline.hmget(f"{KEY_PREFIX}job:{job_id}", fields)
            answers = pipeline.execute(raise_on_error=False)
        found = zip(some, answers, strict=True)
        yield from ((job_id, answer) for job_id, answer in found if isinstance(answer, list))


def read_open_jobs(redis: Redis) -> list[OpenJob]:
    """The jobs that have not ended, without those whose record is damaged."""
    found = []
    for job_id, values in _open_jobs(redis, _TURN_FIELDS):
        if None in values[:7]:
            continue  # the sweeper ends it
        tenant, priority, preset, status, order, cost, sections, done, lease, worker = values
        left = int(sections or 0) - max(0, int(done or 0) - 1)
        found.append(
            OpenJob(
                id=job_id,
                tenant=tenant or "",
                priority=priority or "",
                preset=preset or "",
                status=status or "",
                order=int(order or 0),
                cost=float(cost or 0),
                sections_left=max(0, left),
                worker=worker if lease not in (None, "0") else None,
            )
        )
    return found


def read_paces(redis: Redis) -> Paces:
    """The measured paces of all presets."""
    stored = cast(dict[str, str], redis.hgetall(f"{KEY_PREFIX}pace"))
    return Paces({name: float(value) / 1000 for name, value in stored.items()})


def seconds_per_cost(redis: Redis, preset: str) -> tuple[float, bool]:
    """Seconds of a render worker for one unit of section cost, and whether that was measured."""
    pace = cast(str | None, redis.hget(f"{KEY_PREFIX}pace", preset))
    return _seconds_per_cost(pace), pace is not None


def _seconds_per_cost(milliseconds: str | None) -> float:
    return SECONDS_PER_COST if milliseconds is None else float(milliseconds) / 1000


def _counted(fields: Mapping[str, str]) -> tuple[dict[Labels, int], dict[Labels, Durations]]:
    counts: dict[Labels, int] = {}
    buckets: dict[Labels, dict[str, int]] = {}
    sums: dict[Labels, float] = {}
    for name, value in fields.items():
        match name.split(" "):
            case ["le", kind, bound, preset]:
                buckets.setdefault((kind, preset), {})[bound] = int(value)
            case ["sum", kind, preset]:
                sums[kind, preset] = int(value) / 1000
            case words:
                counts[tuple(words)] = int(value)
    found = {key: Durations(at_most, sums.get(key, 0.0)) for key, at_most in buckets.items()}
    return counts, found
