"""How a worker is asked to stop: first after the task in work, then at the next step.

Only flags, set by signal handlers and read between steps, so a signal can interrupt nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

SAME_REQUEST_SECONDS = 1.0
"""Signals closer than this are one request that came by two ways: process group, supervisor."""

UNFIT = os.EX_SOFTWARE
"""Exit code of a process that must do nothing more; another in its place may."""


class Drain:
    """Whether this process should stop, and how soon.

    Args:
        patience: Seconds that the task in work may go on after the first request; None: any.
        clock: Monotonic seconds.
    """

    def __init__(
        self, patience: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._asked_at: float | None = None
        self._at_once = False
        self.exit_code = 0

    @property
    def requested(self) -> bool:
        """Take no further task."""
        return self._asked_at is not None

    @property
    def at_once(self) -> bool:
        """Give the task in work back at the next step."""
        if self._asked_at is None:
            return False
        waited = self._clock() - self._asked_at
        return self._at_once or (self._patience is not None and waited >= self._patience)

    def request(self) -> None:
        """Ask to stop; the second time, to stop at once."""
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at >= SAME_REQUEST_SECONDS:
            self._at_once = True

    def retire(self, exit_code: int) -> None:
        """Ask to stop because this process is no longer fit to work."""
        self.exit_code = exit_code
        self.request()
