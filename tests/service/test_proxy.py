"""The shipped proxy in front of a real gateway: what passes, and what ends at it."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
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
    """URL of an nginx with the shipped configuration; only its addresses and folders are ours."""
    program, port = require_program("nginx", "nginx-light"), free_port()
    text = CONFIGURATION.read_text()
    for pattern, ours in (
        ("server gateway:8000", f"server {urlsplit(gateway.url).netloc}"),
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
