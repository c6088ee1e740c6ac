"""Tells the record about denoising steps and previews, and hears whether the work is still wanted.

A thread sends a report while the next step computes, so its way to the server and back costs the
step nothing. Only `hear` waits for the answer to a step, which is how a cancel is seen within one;
nothing waits for a preview, and one that a slow server kept waiting is replaced by the next. A
report that fails says nothing: neither that it did not arrive nor that the lease is lost. The work
goes on, and the lease's own deadline decides.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import redis.exceptions

from service.contract.errors import LeaseLost
from service.contract.events import Picture
from service.contract.record import Record, Signal
from worker.lease import Lease

log = logging.getLogger(__name__)

QUIET_SECONDS = 2.0
"""After a failed report, how long not to try: each try may cost the connection's whole timeout."""

_STEP, _PREVIEW = _KINDS = ("step", "preview")
"""Of two that wait the first goes first."""

Report = Callable[[], Signal]


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
        self._waiting: dict[str, tuple[Lease, Report]] = {}
        self._sending = ""
        self._lock = threading.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reporter")
        # Now: without memory a thread dies while it starts, and its starter waits for it for ever.
        self._thread.submit(lambda: None).result()
        self._under_way: Future[None] | None = None

    def step(self, lease: Lease, done: int, total: int) -> None:
        """Report that so many of a section's steps are done; the lease learns the answer soon."""
        self._tell(_STEP, lease, lambda: self._record.report_step(lease.task, done, total))

    def preview(self, lease: Lease, done: int, total: int, picture: Callable[[], Picture]) -> None:
        """Show what a section looks like after so many steps; the lease learns the answer soon."""
        self._tell(
            _PREVIEW,
            lease,
            lambda: self._record.report_preview(lease.task, done, total, picture()),
        )

    def hear(self) -> None:
        """Wait until the last step that was told is answered or has failed."""
        with self._lock:
            self._lock.wait_for(lambda: _STEP not in {self._sending, *self._waiting})

    def settle(self) -> None:
        """Wait until all is answered or has failed; no report may follow its task's end."""
        with self._lock:
            under_way = self._under_way
        if under_way is not None:
            under_way.result()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Settle however a with block is left."""
        try:
            yield
        finally:
            self.settle()

    def _tell(self, kind: str, lease: Lease, report: Report) -> None:
        with self._lock:
            self._waiting[kind] = (lease, report)
            if self._under_way is None:
                self._under_way = self._thread.submit(self._send_all)

    def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._under_way = None
                    return
                self._sending = min(self._waiting, key=_KINDS.index)
                lease, report = self._waiting.pop(self._sending)
            self._send(lease, report)
            with self._lock:
                self._sending = ""
                self._lock.notify_all()

    def _send(self, lease: Lease, report: Report) -> None:
        if self._clock() < self._quiet_until:
            return
        try:
            lease.told(report())
        except LeaseLost:
            lease.refused()
        except (redis.exceptions.RedisError, OSError) as error:
            self._quiet_until = self._clock() + QUIET_SECONDS
            log.warning("could not report: %s", type(error).__name__)
        except Exception:
            log.exception("a report failed")
