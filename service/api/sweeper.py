"""The sweeper every gateway runs: what no event will ever wake is found by looking.

It lapses leases of dead workers, lets tasks whose back-off is over become ready, and rings for work
that nobody was told about, because a bell was lost or a process died between a commit and its bell.
Sweeping is idempotent, so any number of gateways may do it at once.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager

from service.api.metrics import GatewayMetrics
from service.api.rounds import rounds
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

    def running(self) -> AbstractAsyncContextManager[None]:
        """Sweep in the background for the length of a with block."""
        return rounds(
            "sweep", self.sweep, self._interval, lambda end: self._metrics.sweeps.labels(end).inc()
        )
