"""One worker process: put together, checked, warmed up, then listening."""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable

import torch

from framepack.errors import FramepackError
from service.contract import logs
from service.contract.bells import Bells
from service.contract.connections import connect
from service.contract.errors import StorageError
from service.contract.job import Lane
from service.contract.record import Record, WorkerIdentity
from service.contract.storage import open_storage
from service.contract.tracing import TracingUnavailable, send_traces
from worker import tasks
from worker.artifacts import Artifacts
from worker.drain import Drain
from worker.engine import Engine
from worker.faults import CrashPoint
from worker.gpu import WrongDevice, choose_device, peak_flops
from worker.heartbeat import Heartbeat
from worker.listener import Listener, listen
from worker.metrics import WorkerMetrics
from worker.previews import Previews
from worker.reporter import Reporter
from worker.runner import Guards, Links, Runner
from worker.settings import WorkerSettings
from worker.tasks.attempt import Tools
from worker.watchdog import Watchdog

log = logging.getLogger(__name__)

MISCONFIGURED = os.EX_CONFIG
"""Exit code for what starting again cannot repair."""

REPORT_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def run_lane(lane: Lane, settings: WorkerSettings) -> int:
    """Serve a lane until SIGTERM. Returns the exit code."""
    logs.configure(settings, f"framepack-{lane}")
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    metrics = WorkerMetrics()
    metrics.expect(lane, settings.presets)
    metrics.now(lane, "loading")
    if settings.metrics_port is not None:
        metrics.serve(settings.metrics_host, settings.metrics_port)
    try:
        device = choose_device(settings.device, settings.expect_device, settings.presets)
        metrics.peak_flops.set(peak_flops(device, settings.device_tflops))
        engine = Engine(lane, settings.presets, settings.weights, device, settings.placement)
        for preset, seconds in engine.load().items():
            metrics.load_seconds.labels(preset).set(seconds)
        storage = open_storage(settings.storage_url)
        send_traces(settings.traces_endpoint, f"framepack-{lane}")
    except (FramepackError, WrongDevice, StorageError, TracingUnavailable) as error:
        log.error("cannot start: %s", error)
        return MISCONFIGURED
    identity = WorkerIdentity(_unique_name(lane), lane, engine.fingerprints())
    record = Record(connect(settings.redis_url), settings.record_policy())
    links = Links(record, _bells(settings), storage)
    guards = _guards(settings, metrics)
    reporter = Reporter(_own_record(settings, REPORT_SECONDS))
    tools = Tools(
        artifacts=Artifacts(storage),
        reporter=reporter,
        previews=Previews(reporter),
        metrics=metrics,
        crash_point=CrashPoint(settings.crash_point),
    )
    runner = Runner(identity, engine, links, tools, guards)
    tasks.answers(lane, runner.serve)
    log.info("%s serves %s on %s", identity.name, dict(identity.fingerprints), device)
    guards.heartbeat.start()
    metrics.started(lane)
    listen(_listener(lane, settings, guards), guards.drain)
    log.info("%s stops", identity.name)
    return guards.drain.exit_code


def _listener(lane: Lane, settings: WorkerSettings, guards: Guards) -> Callable[[], Listener]:
    bells = _bells(settings)
    registrar = connect(settings.redis_url, retries=0, answer_seconds=REPORT_SECONDS)

    def make() -> Listener:
        queues = bells.queues(lane, settings.presets)
        listener = Listener(queues, _unique_name(lane), guards.drain)

        def keep_registered() -> None:
            with registrar.pipeline() as pipeline:
                listener.heartbeat(pipeline=pipeline)
                pipeline.execute()

        guards.heartbeat.registers(keep_registered)
        return listener

    return make


def _guards(settings: WorkerSettings, metrics: WorkerMetrics) -> Guards:
    """Lease, watchdog and drain; the alarm gets its chance before the watchdog ends the process."""
    lease = settings.lease_seconds
    watchdog = Watchdog(lease, settings.hard_maximum_seconds, grace_seconds=lease)
    record = _own_record(settings, min(5.0, lease / 4))
    return Guards(
        heartbeat=Heartbeat(record, watchdog, metrics.heartbeat.set_to_current_time),
        watchdog=watchdog,
        drain=Drain(settings.drain_seconds),
    )


def _own_record(settings: WorkerSettings, answer_seconds: float) -> Record:
    """The record through a connection that fails fast instead of trying again."""
    client = connect(settings.redis_url, retries=0, answer_seconds=answer_seconds)
    return Record(client, settings.record_policy())


def _bells(settings: WorkerSettings) -> Bells:
    return Bells(settings.redis_url, hard_maximum_seconds=settings.hard_maximum_seconds)


def _unique_name(lane: Lane) -> str:
    return f"{lane}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def tie_to_parent(parent: int) -> None:
    """Get a SIGTERM when the parent process dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent process is gone already")
