"""When jobs will get their turn and be done: the record's rule of turns, played forward.

The rule itself (``record_sharing.lua``) hands out sections: the higher class first, in a class the
tenant served least, in a tenant first come. Played in small slices it is a sharing: tenants of a
class have equal parts of the workers, a job never more than one, and what a tenant cannot use the
others get. Nothing else is assumed but that every section takes what sections took so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

CLASSES = ("high", "normal", "low")

T = TypeVar("T")


@dataclass(frozen=True)
class Ahead:
    """A job that has not ended.

    Attributes:
        order: Of submission.
        seconds: A render worker needs for what is left of it.
    """

    id: str
    tenant: str
    priority: str
    order: int
    seconds: float


@dataclass(frozen=True)
class Turn:
    """Seconds from now until a job's first section is begun, and until its last is sampled."""

    begins: float
    ends: float


def turns(jobs: Iterable[Ahead], workers: int) -> dict[str, Turn]:
    """When each job gets its turn, if nothing else arrives.

    Args:
        jobs: All that the workers serve.
        workers: How many there are, at least one.
    """
    queues = _queues(jobs)
    left: dict[str, float] = {}
    begins: dict[str, float] = {}
    found: dict[str, Turn] = {}
    now = 0.0
    while rates := _rates(queues, workers):
        for job in rates:
            begins.setdefault(job.id, now)
            left.setdefault(job.id, job.seconds)
        slice_ = min(left[job.id] / rate for job, rate in rates.items())
        now += slice_
        for job, rate in rates.items():
            left[job.id] -= slice_ * rate
            if left[job.id] <= 1e-9 * (1 + job.seconds):
                found[job.id] = Turn(begins[job.id], now)
                queues[job.priority][job.tenant].remove(job)
    return found


_Queues = Mapping[str, dict[str, deque[Ahead]]]


def _queues(jobs: Iterable[Ahead]) -> _Queues:
    """Jobs in their order by class and tenant."""
    queues: dict[str, dict[str, deque[Ahead]]] = {name: {} for name in CLASSES}
    for job in sorted(jobs, key=lambda job: job.order):
        queues[job.priority].setdefault(job.tenant, deque()).append(job)
    return queues


def _rates(queues: _Queues, workers: float) -> dict[Ahead, float]:
    """Which jobs are worked on now, and each one's part of a worker."""
    rates: dict[Ahead, float] = {}
    for name in CLASSES:
        waiting = {tenant: queue for tenant, queue in queues[name].items() if queue}
        shares = _shares({tenant: len(queue) for tenant, queue in waiting.items()}, workers)
        for tenant, share in shares.items():
            for job in waiting[tenant]:
                if share <= 1e-9:
                    break
                rates[job] = min(1.0, share)
                share -= rates[job]
                workers -= rates[job]
        if workers <= 1e-9:
            break
    return rates


def _shares(wanted: Mapping[T, float], there: float) -> dict[T, float]:
    """Equal parts of what is there; what one does not want is shared among the others."""
    shares: dict[T, float] = {}
    for number, name in enumerate(sorted(wanted, key=lambda name: wanted[name])):
        part = max(0.0, there) / (len(wanted) - number)
        shares[name] = min(wanted[name], part)
        there -= shares[name]
    return shares
