"""A worker's metrics. Labels hold only values of small closed sets, never an id or a prompt.

Each value is there from the start, with a zero: the first event of a series that was not there
before is invisible to a query over a window.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.contract.job import Lane
from service.contract.job_problems import RETRIED
from service.contract.task import TaskKind
from worker.shown import show

_STEP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 10.0, 30.0)
_STAGE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
_FRAME_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 5.0)
_TASK_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0)

_GPU_MEMORY = {
    "allocated": "GPU memory that tensors of this process hold.",
    "reserved": "GPU memory that this process keeps, in use or not.",
    "peak": "Most GPU memory that tensors held since the last task began.",
}
STATES = ("loading", "idle", "working", "draining")
READY = ("idle", "working")
OUTCOMES = ("committed", "cancelled", "drained", "lost", "invalid_request", *RETRIED)
"""How a task can end: the codes are of what fails."""

KINDS: Mapping[Lane, Sequence[TaskKind]] = {
    Lane.RENDER: ("encode", "sample"),
    Lane.DELIVER: ("decode", "finish"),
}
STAGES: Mapping[Lane, Sequence[str]] = {
    Lane.RENDER: ("encode", "dit", "upload"),
    Lane.DELIVER: ("vae", "mp4", "mux", "upload"),
}
"""What a task's time is made of, see `Attempt.stage`."""


class WorkerMetrics:
    """One registry for one process."""

    def __init__(self) -> None:
        # As many series again, and nobody asks for them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._state = STATES[0]
        self._make_work()
        self._make_process()

    def _make_work(self) -> None:
        """Of steps, sections and tasks."""
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.step_seconds = histogram(
            "framepack_step_seconds",
            "One denoising step, by the host's clock: nothing waits for the device to measure it.",
            ["preset"],
            buckets=_STEP_SECONDS,
        )
        self.model_flops = counter(
            "framepack_model_flops_total",
            "Floating point operations that the model needed in denoising steps, by its layout.",
            ["preset"],
        )
        self.cache_skipped = counter(
            "framepack_cache_skipped_steps_total",
            "Evaluations of the model that a step cache estimated instead.",
            ["preset"],
        )
        self.task_seconds = histogram(
            "framepack_task_seconds",
            "One committed task: encode, sample or decode a section, finish.",
            ["preset", "kind"],
            buckets=_TASK_SECONDS,
        )
        self.tasks = counter(
            "framepack_tasks_total",
            "Claimed tasks by how they ended.",
            ["preset", "kind", "outcome"],
        )
        self.leases_lost = counter(
            "framepack_leases_lost_total",
            "Tasks that another worker may own by now, told by the record or by the clock.",
        )
        self.section_seconds = histogram(
            "framepack_section_seconds",
            "One section's time in a stage: encode, dit, vae, mp4, mux, upload.",
            ["preset", "stage"],
            buckets=_STAGE_SECONDS,
        )
        self.seconds_per_frame = histogram(
            "framepack_seconds_per_frame",
            "A sample task's time for each frame that its section adds to the video.",
            ["preset"],
            buckets=_FRAME_SECONDS,
        )

    def _make_process(self) -> None:
        """Of the process and its device."""
        gauge = partial(Gauge, registry=self.registry)
        self.peak_flops = gauge(
            "framepack_device_peak_flops",
            "Dense bf16 operations a second that the device's maker states; 0 where none is known.",
        )
        self.state = gauge(
            "framepack_worker_state",
            "1 for what this process does now.",
            ["lane", "state"],
        )
        self.heartbeat = gauge(
            "framepack_heartbeat_timestamp_seconds",
            "When a lease was last renewed.",
        )
        self.cold_start = gauge(
            "framepack_cold_start_seconds",
            "From the start of this process until it listened.",
        )
        self.load_seconds = gauge(
            "framepack_model_load_seconds",
            "Loading a preset's models at the start of this process.",
            ["preset"],
        )
        self._gpu_memory = {
            kind: gauge(f"framepack_vram_{kind}_bytes", text) for kind, text in _GPU_MEMORY.items()
        }

    def expect(self, lane: Lane, presets: Sequence[str]) -> None:
        """Begin with zeros for all that a lane's process counts of its presets."""
        for preset in presets:
            for kind in KINDS[lane]:
                self.task_seconds.labels(preset, kind)
                for outcome in OUTCOMES:
                    self.tasks.labels(preset, kind, outcome)
            for stage in STAGES[lane]:
                self.section_seconds.labels(preset, stage)
            if lane is Lane.RENDER:
                for metric in (
                    self.step_seconds,
                    self.model_flops,
                    self.cache_skipped,
                    self.seconds_per_frame,
                ):
                    metric.labels(preset)

    @contextmanager
    def stage(self, preset: str, stage: str) -> Iterator[None]:
        """Measure a stage of a section that ends well."""
        began = time.perf_counter()
        yield
        self.section_seconds.labels(preset, stage).observe(time.perf_counter() - began)

    def now(self, lane: str, state: str) -> None:
        """Note what this process does from now on: one of `STATES`."""
        self._state = state
        for each in STATES:
            self.state.labels(lane, each).set(each == state)

    def started(self, lane: str) -> None:
        """Note that this process is ready, and how long that took."""
        began = self.registry.get_sample_value("process_start_time_seconds")
        if began is not None:  # only Linux tells
            self.cold_start.set(time.time() - began)
        self.now(lane, "idle")

    def memory(self, by_kind: Mapping[str, int]) -> None:
        """Note the GPU memory in use: allocated, reserved, peak."""
        for kind, size in by_kind.items():
            self._gpu_memory[kind].set(size)

    def serve(self, host: str, port: int) -> None:
        """Show the metrics on an address, and at `/readyz` whether this process takes tasks."""
        show(host, port, self.registry, lambda: self._state in READY)
