"""One gateway process for a file of attacks: with keys, two tenants, and its log in a file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.fleet import wait_for
from tests.support.keys import make_key
from tests.support.valkey import Valkey, free_port


@dataclass
class Attacked:
    """The gateway, and what a test needs to see what an attack did to it.

    Attributes:
        port: On loopback.
        ann, bob: Keys of two tenants.
        storage: The folder of its storage.
        http: A client without a key.
    """

    port: int
    ann: str = field(repr=False)
    bob: str = field(repr=False)
    storage: Path
    log: Path
    http: httpx.Client = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """What Bob is answered."""
        headers = {"Authorization": f"Bearer {self.bob}", **more.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **more)

    def submit(self, key: str) -> str:
        """The id of a job that is accepted."""
        answer = self.ask(
            "POST",
            "/jobs",
            data={"prompt": "a red ball"},
            files={"image": ("a.png", small_picture())},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        return job_id


def small_picture() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    program = ["-m", "service", "gateway", "--port"]
    with attacked_gateway(tmp_path_factory.mktemp("attacked"), program) as gateway:
        yield gateway


@contextmanager
def attacked_gateway(folder: Path, program: Sequence[str]) -> Iterator[Attacked]:
    """A gateway process with a record of its own.

    Args:
        folder: For its data.
        program: Arguments of Python; the port follows.
    """
    (folder / "valkey").mkdir()
    port = free_port()
    with Valkey(folder / "valkey", keeps=False) as valkey:
        settings = {
            "redis_url": valkey.url,
            "accept_unsafe_redis": "true",  # nothing here is worth a sync to the disk
            "storage_url": f"file://{folder}/storage",
            "public_url": f"http://127.0.0.1:{port}",
            "signing_secret": "a secret for this test",
            "max_submissions": "0",
            "max_jobs": "0",
        }
        environment = {f"FRAMEPACK_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, *program, str(port)]
        log = folder / "gateway.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(command, env={**os.environ, **environment}, stderr=output) as process,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
        ):
            keys = make_key(valkey.url, "ann"), make_key(valkey.url, "bob")
            gateway = Attacked(port, *keys, folder / "storage", log, http)
            try:
                wait_for(lambda: _ready(gateway), 60.0)
                yield gateway
            finally:
                process.terminate()


def _ready(gateway: Attacked) -> bool:
    try:
        return gateway.ask("GET", "/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def nothing_unexpected(attacked: Attacked) -> Iterator[None]:
    """After each attack the gateway is well, and none of its lines tells of a mistake."""
    before = attacked.log.stat().st_size
    yield
    assert attacked.ask("GET", "/readyz").status_code == 200
    with attacked.log.open("rb") as log:
        log.seek(before)
        said = log.read().decode()
    assert "unexpected error" not in said, said
    assert "Traceback" not in said, said
