"""What a worker shows over HTTP: its metrics, and at `/readyz` whether it takes tasks.

A cluster goes on to replace the next worker when this one is ready, so that an upgrade never leaves
all of them loading at once.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class _Threads(ThreadingMixIn, WSGIServer):
    """One thread a request: a probe never waits for a scrape."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Who asks each few seconds is not logged."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def show(host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
    """Answer on an address, from a thread of its own, for as long as the process lives."""
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/readyz":
            body: Iterable[bytes] = metrics(environ, start)
            return body
        takes = ready()
        start(
            "200 OK" if takes else "503 Service Unavailable",
            [("Content-Type", "text/plain; charset=utf-8")],
        )
        return [b"ready\n" if takes else b"loading or draining\n"]

    class Server(_Threads):
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]

    server = make_server(host, port, answer, Server, _Quiet)
    threading.Thread(target=server.serve_forever, name="shown", daemon=True).start()
