"""Metrics of all jobs, read from the record when Prometheus asks.

Every gateway shows the same numbers, so a query takes `max` over gateways, never `sum`. The record
keeps them, so they survive restarts of everything but Redis.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from service.contract.census import (
    BOUNDS,
    RETRY_REASONS,
    Census,
    Durations,
    Labels,
    take_census,
)
from service.contract.job import JobStatus, Lane

log = logging.getLogger(__name__)

_DURATIONS = {
    "queue_wait": ("framepack_queue_wait_seconds", "From a job's acceptance to its first task."),
    "job": ("framepack_job_seconds", "From a job's acceptance to its finished video."),
    "cancel": ("framepack_cancel_latency_seconds", "From a cancel to its confirmed end."),
}
_OUTCOMES = ("completed", "failed", "cancelled")


class RecordCollector(Collector):
    """Counts when collected.

    Args:
        redis: The record's server.
        presets: All that is counted of them is shown even before they have a job, each with a zero:
            the first event of a series that was not there before is invisible to `rate`.
    """

    def __init__(self, redis: Redis, presets: Sequence[str]) -> None:
        self._redis = redis
        self._presets = presets

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that is put together asks no server."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics, or only that Redis is away."""
        up = GaugeMetricFamily("framepack_record_up", "Whether the record's server answers.")
        try:
            census = take_census(self._redis)
        except RedisError as error:
            log.warning("no metrics of the record: %s", type(error).__name__)
            up.add_metric((), 0)
            return [up]
        up.add_metric((), 1)
        return [
            up,
            *self._gauges(census),
            *self._counters(census),
            *self._histograms(census),
        ]

    def _gauges(self, census: Census) -> Iterable[Metric]:
        jobs = _gauge("framepack_open_jobs", "Jobs that have not ended.", "preset", "status")
        depth = _gauge("framepack_queue_depth", "Tasks a worker could take now.", "preset", "lane")
        backlog = _gauge(
            "framepack_backlog_gpu_seconds",
            "Estimated seconds that one render worker needs for all that is left.",
            "preset",
        )
        for preset in {*self._presets, *(preset for preset, _ in census.open_jobs)}:
            for status in JobStatus:
                if not status.terminal:
                    jobs.add_metric((preset, status), census.open_jobs[preset, status])
            for lane in Lane:
                depth.add_metric((preset, lane), census.waiting[preset, lane])
            backlog.add_metric((preset,), census.backlog_seconds.get(preset, 0.0))
        return [jobs, depth, backlog]

    def _counters(self, census: Census) -> Iterable[Metric]:
        zeros: dict[Labels, int] = {}
        for preset in self._presets:
            zeros |= {("ended", outcome, preset): 0 for outcome in _OUTCOMES}
            zeros |= {("accepted", preset): 0, ("section", preset): 0}
            zeros |= {("retry", reason, preset): 0 for reason in RETRY_REASONS}
        ended = _counter("framepack_jobs", "Jobs that have ended.", "outcome", "preset")
        accepted = _counter("framepack_jobs_accepted", "Accepted jobs.", "preset")
        sections = _counter("framepack_sections", "Sections delivered as clips.", "preset")
        retries = _counter(
            "framepack_retries", "Tasks that will be tried again.", "reason", "preset"
        )
        families = {
            "ended": ended, "accepted": accepted, "section": sections, "retry": retries
        }  # fmt: skip
        for (kind, *labels), value in {**zeros, **census.counts}.items():
            if kind in families:
                families[kind].add_metric(labels, value)
        return families.values()

    def _histograms(self, census: Census) -> Iterable[Metric]:
        families = {
            kind: HistogramMetricFamily(name, text, labels=["preset"])
            for kind, (name, text) in _DURATIONS.items()
        }
        zeros: dict[Labels, Durations] = {
            (kind, preset): Durations({}, 0.0) for kind in families for preset in self._presets
        }
        for (kind, preset), durations in {**zeros, **census.durations}.items():
            if kind in families:
                buckets = _cumulated(kind, durations)
                families[kind].add_metric((preset,), buckets, durations.sum_seconds)
        return families.values()


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=labels)


def _cumulated(kind: str, durations: Durations) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound in sorted({*BOUNDS[kind].split(), *durations.at_most}, key=float):
        total += durations.at_most.get(bound, 0)
        buckets.append((bound, float(total)))
    return buckets
