"""Run the gateway under uvicorn."""

from __future__ import annotations

import contextlib
import ipaddress
import logging

import redis.exceptions
import uvicorn

from service.api.app import create_app
from service.api.connection import MAX_HEAD_BYTES, Connection
from service.api.deps import Services
from service.api.durability import UnsafeRedis
from service.contract import logs
from service.contract.errors import StorageError
from service.contract.settings import Settings
from service.contract.tracing import TracingUnavailable, send_traces

log = logging.getLogger(__name__)

SECONDS_TO_FINISH = 5
SECONDS_TO_KEEP_ALIVE = 30


class OpenToAll(Exception):  # noqa: N818 - reads as what it is at the raise site
    """A service without keys would be reachable from elsewhere."""


def serve(host: str, port: int) -> int:
    """Serve until a signal; returns the exit status."""
    settings = Settings()
    logs.configure(settings, "framepack-gateway")
    try:
        _refuse_to_be_open(settings, host)
        app = create_app(settings)
        parts: Services = app.state.services
        send_traces(parts.settings.traces_endpoint, "framepack-gateway")
        _check(parts)
    except (OpenToAll, UnsafeRedis, StorageError, TracingUnavailable) as error:
        log.error("cannot start: %s", error)
        return 1
    if parts.settings.metrics_port is not None:
        parts.metrics.serve(parts.settings.metrics_host, parts.settings.metrics_port)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=Connection,
            ws="none",
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
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


def _refuse_to_be_open(settings: Settings, host: str) -> None:
    """Raises OpenToAll where strangers could use a service that asks for no key."""
    if settings.auth == "open" and not _is_loopback(host):
        raise OpenToAll(
            f"FRAMEPACK_AUTH=open serves everybody, so it listens on loopback only, not on {host}; "
            "use API keys (FRAMEPACK_AUTH=keys) or --host 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
