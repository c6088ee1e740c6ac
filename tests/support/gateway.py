"""`python -m service gateway` on a fleet's record and storage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.fleet import Fleet, wait_for
from tests.support.valkey import free_port


@contextmanager
def gateway(fleet: Fleet, **more: str) -> Iterator[httpx.Client]:
    """One gateway process, open to all, until the end of a with block; a client of it.

    Args:
        fleet: Whose record and storage it serves.
        more: More ``FRAMEPACK_*`` settings, without the prefix.
    """
    port = free_port()
    settings = {
        "redis_url": fleet.settings.redis_url,
        "storage_url": fleet.settings.storage_url,
        "public_url": f"http://127.0.0.1:{port}",
        "signing_secret": "a secret for this test",
        "auth": "open",
        "lease_seconds": str(fleet.settings.lease_seconds),
        **more,
    }
    environment = {f"FRAMEPACK_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service", "gateway", "--port", str(port)]
    with (
        subprocess.Popen(
            command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
    ):
        try:
            wait_for(lambda: _answers(http), 60.0)
            yield http
        finally:
            process.terminate()


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
