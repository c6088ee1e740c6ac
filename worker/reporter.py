"""Tells the record about denoising steps and previews, and hears whether the work is still wanted.

A thread sends a report while the next step computes, so its way to the server and back costs the
step nothing; a further report waits for the one before. A report that fails says nothing: neither
that it did not arrive nor that the lease is lost. The work goes on, and the lease's own deadline
decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import redis.exceptions

from service.contract.errors import LeaseLost
from service.contract.events import Picture
from service.contract.record import Record, Signal
from worker.lease import Lease

log = logging.getLogger(__name__)

QUIET_SECONDS = 2.0
"""After a failed report, how long not to try: each try may cost the connection's whole timeout."""


class Reporter:
    """Reports the steps of one process's tasks.

    Args:
        record: With a connection that fails fast.
        clock: Monotonic seconds.
    """

    def __init__(self, record: Record, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._quiet_until = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reporter")
        # Now: without memory a thread dies while it starts, and its starter waits for it for ever.
        self._thread.submit(lambda: None).result()
        self._under_way: Future[None] | None = None

    def step(self, lease: Lease, done: int, total: int) -> None:
        """Report that so many of a section's steps are done; the lease learns the answer soon."""
        self._report(lease, lambda: self._record.report_step(lease.task, done, total))

    def preview(self, lease: Lease, done: int, total: int, picture: Picture) -> None:
        """Show what a section looks like after so many steps; the lease learns the answer soon."""
        self._report(lease, lambda: self._record.report_preview(lease.task, done, total, picture))

    def settle(self) -> None:
        """Wait for the last report to be answered or to fail; none may follow its task's end."""
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def _report(self, lease: Lease, report: Callable[[], Signal]) -> None:
        self.settle()
        self._under_way = self._thread.submit(self._send, lease, report)

    def _send(self, lease: Lease, report: Callable[[], Signal]) -> None:
        if self._clock() < self._quiet_until:
            return
        try:
            lease.told(report())
        except LeaseLost:
            lease.refused()
        except (redis.exceptions.RedisError, OSError) as error:
            self._quiet_until = self._clock() + QUIET_SECONDS
            log.warning("could not report: %s", type(error).__name__)
