"""The sweeper every gateway runs: what no event will ever wake is found by looking.

It lapses leases of dead workers, lets tasks whose back-off is over become ready, and rings for work
that nobody was told about, because a bell was lost or a process died between a commit and its bell.
Sweeping is idempotent, so any number of gateways may do it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import redis.exceptions

from service.api.metrics import GatewayMetrics
from service.contract.bells import Bells
from service.contract.record import Record

log = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0


class Sweeper:
    """Sweeps again and again until it is stopped; outlives any outage of Redis."""

    def __init__(
        self,
        record: Record,
        bells: Bells,
        metrics: GatewayMetrics,
        interval: float = SWEEP_SECONDS,
    ) -> None:
        self._record = record
        self._bells = bells
        self._metrics = metrics
        self._interval = interval

    def sweep(self) -> None:
        """Sweep once."""
        swept = self._record.sweep()
        if swept.lapsed:
            log.warning("leases lapsed: %d", len(swept.lapsed))
            self._metrics.lapsed.inc(len(swept.lapsed))
        self._bells.ring(swept.ring)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sweep in the background for the length of a with block."""
        task = asyncio.create_task(self._run(), name="sweeper")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            outcome = await asyncio.to_thread(self._try)
            self._metrics.sweeps.labels(outcome).inc()
            await asyncio.sleep(self._interval)

    def _try(self) -> str:
        try:
            self.sweep()
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            log.warning("could not sweep: %s", type(error).__name__)
            return "unavailable"
        except Exception:  # the one loop that must never end
            log.exception("sweeping failed")
            return "error"
        return "ok"
