"""Ends a process that nothing else can end.

A hung kernel or C extension never returns to Python, so no exception stops it, and one that holds
the interpreter's lock stops every Python thread too. This watchdog is faulthandler's: a C thread
that needs no interpreter. When it is not fed in time it writes the stacks of all threads to stderr
and ends the process; the record then gives the task to another worker.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_AT_ONCE = 0.001


class Watchdog:
    """Ends the process when a task takes too long, or goes on long after its lease is lost.

    Args:
        lease_seconds: Length of a lease.
        hard_maximum_seconds: The longest a task may take.
        grace_seconds: How long after either a task may take to notice it by itself.
    """

    def __init__(
        self, lease_seconds: float, hard_maximum_seconds: float, grace_seconds: float
    ) -> None:
        self._lease = lease_seconds
        self._maximum = hard_maximum_seconds
        self._grace = grace_seconds
        self._lock = threading.Lock()
        self._end: float | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch over one task."""
        with self._lock:
            self._end = time.monotonic() + self._maximum
            self._arm()
        try:
            yield
        finally:
            with self._lock:
                self._end = None
                faulthandler.cancel_dump_traceback_later()

    def feed(self) -> None:
        """The lease was renewed just now; called from the heartbeat's thread."""
        with self._lock:
            self._arm()

    def _arm(self) -> None:
        if self._end is not None:
            left = min(self._lease, self._end - time.monotonic()) + self._grace
            faulthandler.dump_traceback_later(max(left, _AT_ONCE), exit=True, file=2)
