"""A claimed task as the threads of a worker share it: still ours, and still wanted?

The record's server decides on its own clock. Here is the cautious shadow of it: a renewal counts
from the moment before it was sent, so this side never believes in a lease for longer than the
server does. When in doubt the worker stops; the fence makes even a wrong belief harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from service.contract.errors import LeaseLost
from service.contract.record import Signal, Task
from worker.drain import Drain
from worker.interruptions import TaskCancelled, TaskDrained


class Lease:
    """The lease on one task.

    Args:
        task: The claimed task.
        seconds: Length of a lease.
        asked_at: Monotonic time before the claim was sent.
        drain: Whether this process should stop.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        task: Task,
        seconds: float,
        asked_at: float,
        drain: Drain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task = task
        self._seconds = seconds
        self._deadline = asked_at + seconds
        self._drain = drain
        self._clock = clock
        self._refused = False
        self._cancelled = False

    @property
    def lost(self) -> bool:
        """Whether another worker may own the task now."""
        return self._refused or self._clock() >= self._deadline

    @property
    def is_refused(self) -> bool:
        """Whether the record said that the task is another's."""
        return self._refused

    def renewed(self, asked_at: float, signal: Signal) -> None:
        """The record answered a renewal that was sent at a monotonic time."""
        self._deadline = max(self._deadline, asked_at + self._seconds)
        self.told(signal)

    def told(self, signal: Signal) -> None:
        """The record answered a report.

        A pause asks for nothing here: the section in work is finished and the record hands out no
        further one.
        """
        if signal is Signal.CANCEL:
            self._cancelled = True

    def refused(self) -> None:
        """The record answered that the task is another's."""
        self._refused = True

    def check(self) -> None:
        """Return if the work should go on.

        Raises:
            LeaseLost: Another worker may own the task.
            TaskCancelled: The job is being cancelled.
            TaskDrained: This process must stop now.
        """
        if self.lost:
            raise LeaseLost(f"{self.task.kind} of job {self.task.job_id}")
        if self._cancelled:
            raise TaskCancelled
        if self._drain.at_once:
            raise TaskDrained
