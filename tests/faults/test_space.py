"""No space left on Redis's disk: nothing is accepted, nothing accepted is lost.

A limit that the kernel holds (``RLIMIT_FSIZE``) stands for the full disk, so nobody need be root;
only the number of the error is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.contract.connections import connect
from tests.faults.stack import Gateway
from tests.support.fleet import picture, wait_for
from tests.support.valkey import Valkey, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    (tmp_path / "valkey").mkdir()
    with Valkey(tmp_path / "valkey") as valkey:
        yield valkey


@pytest.fixture
def jobs(valkey: Valkey, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a gateway's `/jobs`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    settings = {
        "FRAMEPACK_AUTH": "open",
        "FRAMEPACK_REDIS_URL": valkey.url,
        "FRAMEPACK_STORAGE_URL": f"file://{tmp_path}/storage",
        "FRAMEPACK_PUBLIC_URL": url,
        "FRAMEPACK_SIGNING_SECRET": "secret",
    }
    gateway = Gateway(port, settings, tmp_path / "gateway.log")
    with httpx.Client(base_url=url, timeout=30) as client:
        wait_for(lambda: _serves(client), 60)
        yield client
    gateway.end()


def _serves(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def _submit(client: httpx.Client) -> httpx.Response:
    return client.post("/jobs", data={"prompt": "a red ball"}, files={"image": picture()})


def test_nothing_is_accepted_while_redis_cannot_write_and_all_is_there_afterwards(
    valkey: Valkey, jobs: httpx.Client
) -> None:
    accepted = []
    with connect(valkey.url) as redis:
        redis.config_set("appendfsync", "everysec")  # stays up, and refuses to write
    for ends_itself in (False, True):
        accepted.append(_submit(jobs).raise_for_status().json()["id"])
        valkey.fill_disk()
        # With everysec Redis finds out with its first write, which it acknowledges.
        wait_for(lambda: _submit(jobs).status_code == 503, 30)
        refused = _submit(jobs)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["code"] == "record_unavailable"
        assert refused.json()["retryable"]
        assert valkey.ended() is ends_itself
        if ends_itself:
            valkey.start()
        else:
            valkey.free_disk()
        wait_for(lambda: _submit(jobs).status_code == 202, 30)
        for job_id in accepted:
            assert jobs.get(f"/jobs/{job_id}").json()["status"] == "queued"
        with connect(valkey.url) as redis:
            redis.config_set("appendfsync", "always")  # ends itself
