"""A real gateway on loopback: uvicorn in a thread, in front of the real Valkey and real files."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from pydantic import SecretStr

from service.api.app import create_app
from service.contract.connections import connect
from service.contract.record import Record
from service.contract.settings import Settings
from tests.support.lanes import HandWorker
from tests.support.valkey import Valkey, free_port


class RunningGateway:
    """A gateway that answers at `url`."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.settings = settings
        self.url = settings.public_url
        self.app = create_app(settings)
        config = uvicorn.Config(
            self.app, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert self._thread.is_alive(), "the gateway did not start"
            assert time.monotonic() < deadline, "the gateway did not start in time"
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the gateway did not stop"


def gateway_settings(redis_url: str, folder: Path, port: int, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "redis_url": redis_url,
        "storage_url": f"file://{folder}",
        "public_url": f"http://127.0.0.1:{port}",
        "signing_secret": SecretStr("a secret for these tests"),
        "auth": "open",
        "presets": ("tiny",),
        "backoff_seconds": (0.0,),
    }
    return Settings(**{**values, **changes})


@contextmanager
def running_gateway(
    redis_url: str, folder: Path, port: int = 0, **changes: Any
) -> Iterator[RunningGateway]:
    port = port or free_port()
    gateway = RunningGateway(gateway_settings(redis_url, folder, port, **changes), port)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="module")
def shared_gateway(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway for the tests of one module: its sweeper must not work beside other modules'."""
    with running_gateway(valkey.url, tmp_path_factory.mktemp("storage")) as running:
        yield running


@pytest.fixture
def gateway(shared_gateway: RunningGateway, redis_url: str) -> RunningGateway:
    """The gateway of the module, on a server emptied for this test."""
    assert shared_gateway.settings.redis_url == redis_url
    return shared_gateway


@pytest.fixture
def open_gateway() -> Callable[..., AbstractContextManager[RunningGateway]]:
    """Starts another gateway: (redis_url, storage folder, **settings)."""
    return running_gateway


@pytest.fixture
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def picture() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def submit(http: httpx.Client, picture: bytes) -> Submit:
    """Submits a job of one section; arguments are request fields."""

    def send(**fields: Any) -> dict[str, Any]:
        form = {"prompt": "The girl dances.", "seconds": "1", **fields}
        answer = http.post("/jobs", data=form, files={"image": ("photo.jpg", picture)})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    return send


@pytest.fixture
def worker(gateway: RunningGateway, redis_url: str) -> Iterator[HandWorker]:
    parts = gateway.app.state.services
    with connect(redis_url) as client:
        yield HandWorker(Record(client, gateway.settings.record_policy()), parts.storage)
