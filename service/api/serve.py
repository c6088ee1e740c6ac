"""Run the gateway under uvicorn."""

from __future__ import annotations

import contextlib
import logging
import sys

import redis.exceptions
import uvicorn

from service.api.app import create_app
from service.api.deps import Services
from service.api.durability import UnsafeRedis
from service.contract.errors import StorageError
from service.contract.settings import Settings
from service.contract.tracing import TracingUnavailable, send_traces

log = logging.getLogger(__name__)

SECONDS_TO_FINISH = 5
SECONDS_TO_KEEP_ALIVE = 30


def serve(host: str, port: int) -> int:
    """Serve until a signal; returns the exit status."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        app = create_app(Settings())
        parts: Services = app.state.services
        send_traces(parts.settings.traces_endpoint, "framepack-gateway")
        _check(parts)
    except (UnsafeRedis, StorageError, TracingUnavailable) as error:
        log.error("cannot start: %s", error)
        return 1
    if parts.settings.metrics_port is not None:
        parts.metrics.serve(parts.settings.metrics_host, parts.settings.metrics_port)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            # Our own line per request names the route; uvicorn's would print signed queries.
            access_log=False,
            server_header=False,
            timeout_keep_alive=SECONDS_TO_KEEP_ALIVE,
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    return 0 if server.started else 1


def _check(parts: Services) -> None:
    """Find out now what would make every request fail.

    Raises:
        UnsafeRedis: The server may lose accepted jobs.
        StorageError: The storage cannot sign links.
    """
    parts.storage.signed_url("probe", expires_in=1, content_type="video/mp4", filename="probe")
    try:
        parts.durability.require()
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        # It may come later; until then the gateway says that it is not ready.
        log.warning("Redis cannot be reached yet: %s", error)
