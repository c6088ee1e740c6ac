"""The gateway's own metrics: rate, errors and duration of requests, and what its sweeper does.

What is true of all jobs, whichever gateway is asked, is in `service.api.record_metrics`. Labels
hold only values of small closed sets: the route's template, never a path, an id or a tenant. Each
value is there from the start, with a zero: the first event of a series that was not there before
is invisible to a query over a window.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute, Route

from service.api.rounds import ENDS
from service.contract.keeping import DeletedFor

_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GatewayMetrics:
    """One registry for one application, so that two in a process do not share counts.

    Args:
        collectors: More to show, collected when asked for.
    """

    def __init__(self, *collectors: Collector) -> None:
        # As many series again, and nobody asks for them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        for collector in collectors:
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter(
            "framepack_http_requests_total",
            "Answered requests.",
            ["method", "route", "status"],
        )
        self.seconds = histogram(
            "framepack_http_request_seconds",
            "Time until an answer began.",
            ["method", "route"],
            buckets=_HTTP_SECONDS,
        )
        self.in_progress = gauge(
            "framepack_http_requests_in_progress",
            "Requests being answered, event streams included.",
        )
        self.sse_clients = gauge("framepack_sse_clients", "Open event streams.")
        self.image_seconds = histogram(
            "framepack_image_decode_seconds",
            "Decoding and re-encoding an uploaded picture.",
            buckets=_HTTP_SECONDS,
        )
        self.sweeps = counter(
            "framepack_sweeps_total",
            "Runs of the sweeper.",
            ["outcome"],
        )
        self.webhooks = counter(
            "framepack_webhook_attempts_total",
            "Attempts to deliver a webhook, by what became of it.",
            ["outcome"],
        )
        self.webhook_seconds = histogram(
            "framepack_webhook_seconds",
            "Time until a webhook's receiver answered or was given up.",
            buckets=_HTTP_SECONDS,
        )
        self.cleanings = counter(
            "framepack_cleanings_total",
            "Rounds in which this gateway looked for files to delete.",
            ["outcome"],
        )
        self.deleted = counter(
            "framepack_deleted_objects_total",
            "Stored objects this gateway deleted because they were no longer needed.",
            ["reason"],
        )
        self.deleted_bytes = counter(
            "framepack_deleted_bytes_total",
            "Bytes of stored objects this gateway deleted.",
            ["reason"],
        )
        self.lapsed = counter(
            "framepack_leases_lapsed_total",
            "Leases this gateway's sweeper found expired.",
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        for outcome in ("delivered", "retried", "failed"):
            self.webhooks.labels(outcome)
        for end in ENDS:
            self.sweeps.labels(end)
            self.cleanings.labels(end)
        for reason in get_args(DeletedFor):
            self.deleted.labels(reason)
            self.deleted_bytes.labels(reason)
        self.requests.labels("GET", "none", "404")
        self.seconds.labels("GET", "none")

    def expect(self, routes: Iterable[BaseRoute]) -> None:
        """Begin with zeros for all answers that routes are documented to give, and for 500."""
        for route in routes:
            if isinstance(route, Route):
                succeeds = getattr(route, "status_code", None) or 200
                documented = getattr(route, "responses", {})
                for method in route.methods or ():
                    self.seconds.labels(method, route.path)
                    for status in {str(succeeds), "500", *map(str, documented)}:
                        self.requests.labels(method, route.path, status)

    def serve(self, host: str, port: int) -> None:
        """Show the metrics on an address of their own, from a thread."""
        start_http_server(port, addr=host, registry=self.registry)
