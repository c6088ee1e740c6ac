"""The RQ worker that hears the bells: it runs them in this process and never forks.

RQ's usual worker forks for every job, which a process with a CUDA context must not do. This one
also takes over what RQ does with signals (a second SIGTERM would tear a task apart) and closes what
RQ opens besides the queues: commands by pub/sub, its scheduler, callbacks named in an entry.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import redis.exceptions
from rq import Queue
from rq.exceptions import StopRequested
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.timeouts import UnixSignalDeathPenalty
from rq.worker import SimpleWorker

from service.contract.bells import BellJob
from worker.drain import Drain
from worker.interruptions import TaskOverdue

log = logging.getLogger(__name__)

WORKER_TTL_SECONDS = 25
MAINTENANCE_SECONDS = 30
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0


class Alarm(UnixSignalDeathPenalty):
    """Interrupts a task at its hard maximum, where Python can be interrupted at all."""

    def __init__(self, timeout: int, exception: type[Exception], **kwargs: Any) -> None:
        super().__init__(timeout, TaskOverdue, **kwargs)  # type: ignore[no-untyped-call]


class Listener(SimpleWorker):
    """Listens to the queues of one lane.

    Args:
        queues: Of `service.contract.bells.Bells`.
        name: Unique; RQ refuses a name that is in use, and a dead worker's stays in use for long.
        drain: What signals ask for.
    """

    death_penalty_class = Alarm
    max_connection_wait_time = LONGEST_PAUSE

    def __init__(self, queues: Sequence[Queue], name: str, drain: Drain) -> None:
        self._drain = drain
        self._waiting = False
        super().__init__(
            list(queues),
            name=name,
            connection=queues[0].connection,
            job_class=BellJob,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
        )

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: ends the waiting for bells; a task in work looks at the drain."""
        self._drain.request()
        self._stop_requested = True
        if self._waiting:
            raise StopRequested

    def _install_signal_handlers(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_stop)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[RqJob, Queue] | None:
        self._waiting = True
        try:
            if self._drain.requested:
                raise StopRequested
            found: tuple[RqJob, Queue] | None
            found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            return found
        finally:
            self._waiting = False

    def run_maintenance_tasks(self) -> None:
        """RQ's own tidying. What it chokes on is a bell, and a bell can be thrown away."""
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except redis.exceptions.RedisError:
            raise
        except Exception:
            log.warning("threw away what RQ could not tidy up", exc_info=True)
            for queue in self.queues:
                self.connection.delete(queue.intermediate_queue_key)

    def subscribe(self) -> None:
        """No commands from outside: what a worker should stop doing, the record says."""


def listen(make: Callable[[], Listener], drain: Drain) -> None:
    """Listen until this process should stop.

    RQ's loop ends when Redis is away for longer than its retries, or when an entry cannot be read.
    The models stay loaded, so the loop is simply started again, under a new name.
    """
    pause = FIRST_PAUSE
    while not drain.requested:
        began = time.monotonic()
        try:
            make().work(logging_level="WARNING")
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            log.warning("Redis is away (%s); trying again", type(error).__name__)
        pause = FIRST_PAUSE if time.monotonic() - began > LONGEST_PAUSE else pause
        if not drain.requested:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
