"""What follows a commit and nobody waits for: done by a thread, beside the next task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

log = logging.getLogger(__name__)


class Beside:
    """Does one thing after the other in a thread.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        # Now, as in the reporter: a thread that dies while it starts is waited for without end.
        self._thread.submit(lambda: None).result()
        self._last: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Do something soon. A mistake in it is logged."""
        self._last = self._thread.submit(_carefully, work)

    def settle(self) -> None:
        """Wait until all is done."""
        if self._last is not None:
            self._last.result()
            self._last = None


def _carefully(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("what follows a commit failed")
