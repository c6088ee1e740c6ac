"""What lies ahead of every job of this service, estimated from the measured pace of sections.

Asked by everybody who polls a waiting job, so it is worked out anew only every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from service.contract.bells import Bells
from service.contract.census import OpenJob, Paces, read_open_jobs, read_paces
from service.contract.job import Lane
from service.contract.record import Record
from service.contract.turns import Ahead, Turn, turns

FRESH_SECONDS = 5.0
LEAST_SECONDS = 1.0
"""Even for a job that was not there at the last look."""
PATIENCE = 20
"""At most one part in so many of a gateway's time goes into looking."""

_NOT_WAITING = ("paused", "cancelling")


@dataclass(frozen=True)
class Expected:
    """What is ahead of a job, in seconds from now.

    Attributes:
        begins: Until a worker begins it.
        ends: Until its video is finished.
    """

    begins: float
    ends: float


@dataclass(frozen=True)
class _Look:
    """One look at everything.

    Attributes:
        jobs: All that ask for workers.
        workers: Render workers by preset, by name.
    """

    jobs: Sequence[OpenJob] = ()
    paces: Paces = field(default_factory=Paces)
    workers: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def group(self, preset: str) -> tuple[frozenset[str], frozenset[str]]:
        """The presets that share workers with one, and the workers they share."""
        presets, workers = {preset}, set(self.workers.get(preset, ()))
        while more := {
            name for name, its in self.workers.items() if name not in presets and its & workers
        }:
            presets |= more
            workers = workers.union(*(self.workers[name] for name in more))
        return frozenset(presets), frozenset(workers)

    def turns(self, presets: Iterable[str], workers: int, more: Sequence[Ahead]) -> dict[str, Turn]:
        served = frozenset(presets)
        mine = [self._ahead(job) for job in self.jobs if job.preset in served]
        return turns([*mine, *more], max(1, workers))

    def _ahead(self, job: OpenJob) -> Ahead:
        seconds = job.sections_left * self.paces.section(job.preset, job.cost)
        return Ahead(job.id, job.tenant, job.priority, job.order, seconds)


class Outlook:
    """Estimates for the jobs of one service."""

    def __init__(self, record: Record, bells: Bells, presets: Sequence[str]) -> None:
        self._record = record
        self._bells = bells
        self._presets = presets
        self._lock = threading.Lock()
        self._look = _Look()
        self._turns: dict[str, Turn] = {}
        self._at, self._took = float("-inf"), 0.0

    def of(self, job_id: str, preset: str, sections: int, cost: float) -> Expected | None:
        """What is ahead of an open job; None where nothing was measured or nobody serves it."""
        with self._lock:
            self._refresh(FRESH_SECONDS if job_id in self._turns else LEAST_SECONDS)
            look, turn, age = self._look, self._turns.get(job_id), time.monotonic() - self._at
        if turn is None or not look.paces.measured(preset) or not look.workers.get(preset):
            return None
        turn = Turn(max(0.0, turn.begins - age), max(0.0, turn.ends - age))
        return _expected(look, turn, preset, sections, cost)

    def with_another(self, job: Ahead, preset: str, sections: int, cost: float) -> Expected:
        """What would be ahead of a job submitted now."""
        with self._lock:
            self._refresh(LEAST_SECONDS)
            look = self._look
        last = max((each.order for each in look.jobs), default=0)
        presets, workers = look.group(preset)
        found = look.turns(presets, len(workers), [replace(job, order=last + 1)])
        return _expected(look, found[job.id], preset, sections, cost)

    def until_one_ends(self) -> float:
        """Seconds until the next of all jobs has ended; 0 if there is none."""
        with self._lock:
            self._refresh(FRESH_SECONDS)
            return min((turn.ends for turn in self._turns.values()), default=0.0)

    def _refresh(self, seconds: float) -> None:
        began = time.monotonic()
        if began - self._at < max(seconds, PATIENCE * self._took):
            return
        redis = self._record.redis
        jobs = [job for job in read_open_jobs(redis) if job.status not in _NOT_WAITING]
        presets = {*self._presets, *(job.preset for job in jobs)}
        workers = {name: self._workers(name, jobs) for name in presets}
        self._look = _Look(jobs, read_paces(redis), workers)
        self._turns = {}
        done: set[str] = set()
        for preset in sorted(presets):
            if preset not in done:
                group, shared = self._look.group(preset)
                done |= group
                self._turns |= self._look.turns(group, len(shared), ())
        self._at = time.monotonic()
        self._took = self._at - began

    def _workers(self, preset: str, jobs: Iterable[OpenJob]) -> frozenset[str]:
        """Those that listen; those that are busy, where nobody is registered."""
        busy = {job.worker for job in jobs if job.preset == preset and job.worker}
        return frozenset(self._bells.listeners(Lane.RENDER, preset) or busy)


def _expected(look: _Look, turn: Turn, preset: str, sections: int, cost: float) -> Expected:
    """With the lane that delivers: it follows, a section behind, or is the slower one."""
    delivery = look.paces.delivery(preset, cost)
    ends = max(turn.ends + delivery, turn.begins + sections * delivery)
    return Expected(round(turn.begins, 1), round(ends, 1))
