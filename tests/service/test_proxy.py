"""The shipped proxy in front of a real gateway: what passes, and what ends at it."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.conftest import RunningGateway
from tests.support.fleet import wait_for
from tests.support.system import require_program
from tests.support.valkey import free_port

CONNECTIONS = 3
"""Of one address, in place of a hundred."""

CONFIGURATION = Path(__file__).parents[2] / "deploy/proxy/nginx.conf"


@pytest.fixture
def proxy(gateway: RunningGateway, tmp_path: Path) -> Iterator[str]:
    """URL of a proxy in front of a real gateway."""
    with _nginx(tmp_path, urlsplit(gateway.url).netloc) as url:
        yield url


@contextmanager
def _nginx(tmp_path: Path, target: str, resolver: str = "127.0.0.1") -> Iterator[str]:
    """An nginx with the shipped configuration; only its addresses and folders are ours."""
    program, port = require_program("nginx", "nginx-light"), free_port()
    text = CONFIGURATION.read_text()
    for pattern, ours in (
        ("gateway:8000", target),
        ("resolver 127.0.0.11 valid=5s", f"resolver {resolver} valid=1s"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("/run/nginx.pid", str(tmp_path / "pid")),
        ("_temp_path /tmp/", f"_temp_path {tmp_path}/"),
        ("/dev/stdout", str(tmp_path / "access.log")),
        ("limit_conn address 100", f"limit_conn address {CONNECTIONS}"),
    ):
        assert pattern in text
        text = text.replace(pattern, ours)
    # nginx started by root works as another user, who cannot reach a test's folder.
    (tmp_path / "nginx.conf").write_text("user root;\n" + text)
    command = [program, "-c", f"{tmp_path}/nginx.conf", "-p", str(tmp_path), "-g", "daemon off;"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: _listens(port), 10.0)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_jobs_pass_and_metrics_do_not(proxy: str, picture: bytes) -> None:
    with httpx.Client(base_url=proxy, timeout=20) as http:
        answer = http.post("/jobs", data={"prompt": "x"}, files={"image": ("a", picture)})
        assert answer.status_code == 202
        job = answer.json()["id"]
        assert http.get(f"/jobs/{job}").json()["status"] == "queued"
        assert http.get("/metrics").status_code == 404
        with http.stream("GET", f"/jobs/{job}/events") as stream:
            assert next(line for line in stream.iter_lines() if line.startswith("event:"))


def test_an_address_gets_so_many_connections_and_then_room_again(
    proxy: str, picture: bytes
) -> None:
    with httpx.Client(base_url=proxy, timeout=20) as http:
        job = http.post("/jobs", data={"prompt": "x"}, files={"image": ("a", picture)}).json()["id"]
        with ExitStack() as streams:
            for _ in range(CONNECTIONS):
                stream = streams.enter_context(http.stream("GET", f"/jobs/{job}/events"))
                assert stream.status_code == 200
            assert http.get(f"/jobs/{job}").status_code == 429
        wait_for(lambda: http.get(f"/jobs/{job}").status_code == 200, 10.0)


def test_large_heads_and_bodies_end_at_the_proxy(proxy: str) -> None:
    with httpx.Client(base_url=proxy, timeout=20) as http:
        assert http.get("/healthz", headers={"X-Large": "x" * 10_000}).status_code == 400
        assert http.post("/jobs", content=b"x" * (16 * 2**20)).status_code == 413


def test_no_line_of_the_log_holds_a_query(proxy: str, tmp_path: Path) -> None:
    assert httpx.get(f"{proxy}/files/x?signature=secret").status_code in (403, 404)
    wait_for(lambda: "/files/x" in (tmp_path / "access.log").read_text(), 10.0)
    assert not re.search("secret|signature", (tmp_path / "access.log").read_text())


def test_only_submitting_is_limited_to_one_a_second(proxy: str) -> None:
    with httpx.Client(base_url=proxy, timeout=20) as http:
        assert {http.get("/jobs").status_code for _ in range(40)} == {200}
        for path in ("/jobs", "/v1/videos"):
            assert 429 in {http.post(path).status_code for _ in range(40)}


def test_a_gateway_that_is_made_anew_at_another_address_is_found(tmp_path: Path) -> None:
    """As in a composition, where a name in an `upstream` is looked up once, at the start."""
    port = free_port()
    with (
        _Names() as names,
        _nginx(tmp_path, f"gateway:{port}", f"127.0.0.1:{names.port}") as url,
    ):
        for address in ("127.0.0.2", "127.0.0.3"):
            names.address = address
            with _answering(address, port):
                wait_for(lambda: httpx.get(url).text == address, 20.0)  # noqa: B023


@contextmanager
def _answering(address: str, port: int) -> Iterator[None]:
    """A server that answers with its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(address)))
            self.end_headers()
            self.wfile.write(address.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((address, port), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Names:
    """A name server that gives every name one address."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> _Names:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as farewell:
            farewell.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(512)
            if not question:
                return
            # The question, and one answer that points to its name: type A, class IN, one second.
            head = question[:2] + b"\x81\x80" + bytes([0, 1, 0, 1, 0, 0, 0, 0])
            answer = b"\xc0\x0c" + bytes([0, 1, 0, 1, 0, 0, 0, 1, 0, 4])
            address = socket.inet_aton(self.address)
            self._socket.sendto(head + question[12:] + answer + address, asker)
