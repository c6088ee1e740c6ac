"""Run the gateway under uvicorn."""

from __future__ import annotations

import contextlib
import logging
import sys

import uvicorn

from service.api.app import create_app
from service.api.durability import UnsafeRedis
from service.contract.settings import Settings

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
    except UnsafeRedis as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
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
