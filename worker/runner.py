"""What a bell sets off: claim a task, do it, commit it, ring for what became possible, claim again.

Every way a task can end is here: committed, given back (cancelled, drained), lost, failed.
"""

from __future__ import annotations

import logging
import signal
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import redis.exceptions

from framepack.errors import WeightsError
from service.contract.bells import Bells
from service.contract.errors import LeaseLost
from service.contract.job import Artifact, Lane
from service.contract.logs import about
from service.contract.record import Committed, Record, Ring, Task, TaskKind, WorkerIdentity
from service.contract.spent import Spent
from service.contract.storage.base import Storage
from service.contract.tracing import working
from worker import gpu
from worker.beside import Beside
from worker.drain import UNFIT, Drain
from worker.engine import Engine
from worker.failures import device_out_of_memory, out_of_memory, problem_of, unexplained, unfit
from worker.heartbeat import Heartbeat
from worker.interruptions import Interruption, TaskCancelled
from worker.lease import Lease
from worker.progress import write_progress
from worker.tasks import decode, encode, finish, sample
from worker.tasks.attempt import Attempt, Tools
from worker.watchdog import Watchdog

log = logging.getLogger(__name__)

MOST_UNEXPLAINED = 2
"""Failures in a row that nobody can explain, after which the process is replaced."""
RETRY_SECONDS = 0.25

SECONDS_A_BELL = 30.0
"""After which no further task is done for the same bell, so that RQ comes to its own tidying."""

_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


@dataclass(frozen=True)
class Links:
    """What connects a worker to the rest of the service."""

    record: Record
    bells: Bells
    storage: Storage


@dataclass(frozen=True)
class Guards:
    """What watches over the task in work."""

    heartbeat: Heartbeat
    watchdog: Watchdog
    drain: Drain


@dataclass(frozen=True)
class Claimed:
    """A task that is ours, and the monotonic time before it was asked for."""

    task: Task
    asked_at: float


class Runner:
    """Does tasks.

    Args:
        identity: Who claims.
        engine: The resident models.
        links: To the rest of the service.
        tools: What tasks are lent.
        guards: What watches over them.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        engine: Engine,
        links: Links,
        tools: Tools,
        guards: Guards,
    ) -> None:
        self._identity = identity
        self._engine = engine
        self._links = links
        self._tools = tools
        self._guards = guards
        self._decoders = decode.Decoders()
        self._too_large: str | None = None
        self._unexplained = 0
        self._bells, self._progress = Beside("bells"), Beside("progress")
        self._next: Claimed | None = None
        self._until = 0.0
        self._functions: Mapping[TaskKind, Callable[[Attempt], Artifact]] = {
            "encode": encode.run,
            "sample": sample.run,
            "decode": lambda attempt: decode.run(attempt, self._decoders),
            "finish": finish.run,
        }

    def serve(self, seconds: float = SECONDS_A_BELL) -> None:
        """Answer a bell: do tasks until there is none, without waiting for a bell for each.

        Args:
            seconds: After which the next task is left to another bell.
        """
        maximum = signal.alarm(0)  # set by RQ for one task; each gets the whole of it
        self._until = time.monotonic() + seconds
        signal.alarm(maximum)
        while self._do_one():
            signal.alarm(maximum)
            if self._next is None and not self._goes_on:
                self._ring(self._own())  # there may be more, and nobody else was told
                break
        self._until = 0.0
        self._settle()

    def answer(self) -> None:
        """Do one task, if there is one."""
        self._do_one()
        self._settle()

    def _do_one(self) -> bool:
        """Do one task, if there is one; returns whether there was."""
        claimed, self._next = self._next, None
        if self._guards.drain.requested:
            if claimed is not None:
                self._ring(self._links.record.release(claimed.task))
            return False
        claimed = claimed or self._claim()
        if claimed is None:
            return False
        task = claimed.task
        if task.leaves_more:
            self._ring(self._own())
        seconds = self._links.record.policy.lease_ms / 1000
        lease = Lease(task, seconds, claimed.asked_at, self._guards.drain)
        self._tools.metrics.now(task.lane, "working")
        with (
            working(task.kind, task.spec.traceparent, _described(task)),
            about(job_id=task.job_id, task=task.kind, section=task.section),
        ):
            ring = self._guarded(lease)
        self._tools.metrics.now(task.lane, "draining" if self._guards.drain.requested else "idle")
        self._ring(ring)
        self._make_room()
        if task.lane is Lane.DELIVER:
            links, spec = self._links, task.spec
            self._progress.do(lambda: write_progress(links.storage, links.record, spec))
        return True

    @property
    def _goes_on(self) -> bool:
        """Whether this bell sets off a further task."""
        return time.monotonic() < self._until and not self._guards.drain.requested

    def _claim(self) -> Claimed | None:
        asked_at = time.monotonic()
        task = self._links.record.claim(self._identity, uuid.uuid4().hex)
        return None if task is None else Claimed(task, asked_at)

    def _settle(self) -> None:
        self._bells.settle()
        self._progress.settle()

    def _own(self) -> Ring:
        return [(self._identity.lane, preset) for preset in self._identity.fingerprints]

    def _guarded(self, lease: Lease) -> Ring:
        """Do a task under watch. Without anybody to watch over it, it is not begun."""
        try:
            with self._guards.watchdog.watching(), self._guards.heartbeat.keeping(lease):
                return self._attempt(lease)
        except (MemoryError, RuntimeError) as error:
            return self._failed(lease.task, error)

    def _attempt(self, lease: Lease) -> Ring:
        """Do a task and settle it. Returns what to ring for."""
        task, began = lease.task, time.perf_counter()
        gpu.start_peak(self._engine.device)
        preset = task.spec.request.preset
        engine = self._engine.fingerprint(preset)
        attempt = Attempt(lease, self._engine[preset], engine, self._tools)
        attempt.reach("claimed")
        try:
            artifact = self._functions[task.kind](attempt)
            attempt.reach("uploaded")
            committed = self._commit(lease, artifact, self._spent(attempt))
        except Interruption as interruption:
            outcome = "cancelled" if isinstance(interruption, TaskCancelled) else "drained"
            self._settled(task, outcome)
            return self._links.record.release(task)
        except LeaseLost:
            self._tools.metrics.leases_lost.inc()
            self._settled(task, "lost")
            return []
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must hear of it
            return self._failed(task, error)
        attempt.reach("committed")
        self._settled(task, "committed" if committed.accepted else "cancelled")
        if committed.accepted:
            self._unexplained = 0
            self._took(task, time.perf_counter() - began)
        # Of this lane `serve` asks at once, or rings.
        return [(lane, preset) for lane, preset in committed.ring if lane is not task.lane]

    def _spent(self, attempt: Attempt) -> Spent:
        sampling = attempt.spent[0] if attempt.spent else Spent()
        return replace(sampling, vram=gpu.memory_bytes(self._engine.device).get("peak"))

    def _commit(self, lease: Lease, artifact: Artifact, spent: Spent) -> Committed:
        """Commit, however often the answer gets lost, for as long as the task is ours.

        The next task is claimed in the same step: each step is a write to the server's disk.
        """
        asked_at = time.monotonic()
        then = (self._identity, uuid.uuid4().hex) if self._goes_on else None
        while True:
            try:
                committed = self._links.record.commit(lease.task, artifact, spent, then)
                if committed.next is not None:
                    self._next = Claimed(committed.next, asked_at)
                return committed
            except _AWAY:
                if lease.lost:
                    raise LeaseLost(f"{lease.task.kind} of job {lease.task.job_id}") from None
                time.sleep(RETRY_SECONDS)

    def _failed(self, task: Task, error: Exception) -> Ring:
        self._decoders.forget()
        if out_of_memory(error):  # room first: what comes next needs some, too
            traceback.clear_frames(error.__traceback__)
            self._tools.artifacts.forget()
            gpu.release_memory(self._engine.device)
        problem = problem_of(error)
        log.error("%s failed: %s", task.kind, problem.code, exc_info=error)
        self._settled(task, problem.code)
        if device_out_of_memory(error):
            self._too_large = task.spec.request.preset
        self._unexplained = self._unexplained + 1 if unexplained(error) else 0
        if unfit(error) or self._unexplained >= MOST_UNEXPLAINED:
            self._guards.drain.retire(UNFIT)
        return self._links.record.fail(task, problem)

    def _make_room(self) -> None:
        """Place a preset smaller that ran out of the device's memory.

        Between two tasks: loading takes long, and neither the failed task nor its error may hold
        the old models. Who cannot load them again is replaced by the supervisor.
        """
        preset, self._too_large = self._too_large, None
        if preset is None:
            return
        try:
            self._engine.shrink(preset)
        except (WeightsError, MemoryError, RuntimeError) as error:
            log.error("cannot place %s smaller", preset, exc_info=error)
            self._guards.drain.retire(UNFIT)

    def _settled(self, task: Task, outcome: str) -> None:
        log.info("%s %s: %s", task.kind, task.section, outcome, extra={"outcome": outcome})
        self._tools.metrics.tasks.labels(task.spec.request.preset, task.kind, outcome).inc()
        self._tools.metrics.memory(gpu.memory_bytes(self._engine.device))

    def _took(self, task: Task, seconds: float) -> None:
        metrics, spec = self._tools.metrics, task.spec
        metrics.task_seconds.labels(spec.request.preset, task.kind).observe(seconds)
        if task.kind == "sample":
            frames = spec.num_frames / spec.num_sections
            metrics.seconds_per_frame.labels(spec.request.preset).observe(seconds / frames)

    def _ring(self, lanes: Ring) -> None:
        if lanes:
            self._bells.do(lambda: self._ring_now(lanes))

    def _ring_now(self, lanes: Ring) -> None:
        try:
            self._links.bells.ring(lanes)
        except _AWAY as error:
            log.warning("could not ring: %s; the sweeper will", type(error).__name__)


def _described(task: Task) -> dict[str, str | int]:
    """A task as a span shows it."""
    found = {"messaging.message.id": task.job_id, "framepack.preset": task.spec.request.preset}
    numbers = {"framepack.task": task.number, "framepack.crashes": task.crashes}
    section = {} if task.section is None else {"framepack.section": task.section}
    return {**found, **numbers, **section}
