"""The thread that keeps a task's lease while the main thread computes.

It covers everything a task does: sampling, decoding, encoding, uploads. It has its own connection
with short timeouts, so that a stuck server costs one beat and not the lease.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import redis.exceptions

from service.contract.errors import LeaseLost
from service.contract.record import Record
from worker.drain import UNFIT
from worker.lease import Lease
from worker.watchdog import Watchdog

log = logging.getLogger(__name__)

REGISTRATION_SECONDS = 15.0
"""How often the worker's entry among RQ's workers is kept alive while a task runs."""

_AWAY = (redis.exceptions.RedisError, OSError)
_NO_HEARTBEAT = (
    b"the heartbeat has ended, and this process with it: nothing would keep its leases\n"
)


class Heartbeat:
    """Renews the lease of the task in work, four times in its length.

    Args:
        record: With a connection that nobody else uses.
        watchdog: Fed by every renewal.
        on_renewed: Called after each renewal.
    """

    def __init__(
        self,
        record: Record,
        watchdog: Watchdog,
        on_renewed: Callable[[], None] = lambda: None,
    ) -> None:
        self._record = record
        self._watchdog = watchdog
        self._on_renewed = on_renewed
        self._interval = record.policy.lease_ms / 4000
        self._lease: Lease | None = None
        self._changed = threading.Condition()
        self._register: Callable[[], None] = lambda: None
        self._registered_at = 0.0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread; it lives as long as the process."""
        self._thread.start()

    def registers(self, register: Callable[[], None]) -> None:
        """Set how the worker's own entry is kept alive."""
        self._register = register

    @contextmanager
    def keeping(self, lease: Lease) -> Iterator[None]:
        """Keep a lease for the length of a with block."""
        with self._changed:
            self._lease = lease
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._lease = None

    def _run(self) -> None:
        """Beat; what ends this thread ends the process, which would claim tasks only to lose them.

        That takes no memory, for the want of it is what mostly ends threads: to be fed the watchdog
        needs a new thread, too.
        """
        try:
            self._beat_for_ever()
        finally:
            with suppress(Exception):
                log.exception("no heartbeat")
            os.write(2, _NO_HEARTBEAT)
            os._exit(UNFIT)

    def _beat_for_ever(self) -> NoReturn:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lease is not None)
                lease = self._lease
            # A refused lease stays refused; one that only seems over may still be renewed.
            if lease is not None and not lease.is_refused:
                self._beat(lease)
            time.sleep(self._interval)

    def _beat(self, lease: Lease) -> None:
        asked_at = time.monotonic()
        try:
            lease.renewed(asked_at, self._record.renew(lease.task))
            self._watchdog.feed()
            self._on_renewed()
            self._keep_registered(asked_at)
        except LeaseLost:
            if lease is self._lease:  # else the task has just ended, which frees its lease
                lease.refused()
        except _AWAY as error:
            log.warning("could not renew the lease: %s", type(error).__name__)

    def _keep_registered(self, now: float) -> None:
        if now - self._registered_at >= REGISTRATION_SECONDS:
            self._register()
            self._registered_at = now
