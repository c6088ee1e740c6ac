"""A worker's metrics. Labels hold only values of small closed sets, never an id or a prompt."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_STEP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_TASK_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0)


class WorkerMetrics:
    """One registry for one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.step_seconds = Histogram(
            "framepack_step_seconds",
            "One denoising step.",
            ["preset"],
            buckets=_STEP_SECONDS,
            registry=self.registry,
        )
        self.task_seconds = Histogram(
            "framepack_task_seconds",
            "One committed task: encode, sample or decode a section, finish.",
            ["preset", "kind"],
            buckets=_TASK_SECONDS,
            registry=self.registry,
        )
        self.tasks = Counter(
            "framepack_tasks_total",
            "Claimed tasks by how they ended.",
            ["preset", "kind", "outcome"],
            registry=self.registry,
        )
        self.leases_lost = Counter(
            "framepack_leases_lost_total",
            "Leases the record refused to renew.",
            registry=self.registry,
        )
        self.load_seconds = Gauge(
            "framepack_model_load_seconds",
            "Loading a preset's models at the start of this process.",
            ["preset"],
            registry=self.registry,
        )
        self.gpu_memory = Gauge(
            "framepack_gpu_memory_bytes",
            "Memory of this process on its GPU.",
            ["kind"],
            registry=self.registry,
        )

    def memory(self, by_kind: Mapping[str, int]) -> None:
        """Note the GPU memory in use."""
        for kind, size in by_kind.items():
            self.gpu_memory.labels(kind).set(size)

    def serve(self, host: str, port: int) -> None:
        """Show the metrics on an address, from a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)
