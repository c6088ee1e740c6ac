"""What the machinery around a gateway sees: health, readiness, metrics, and outages."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api import acceptance, readiness
from service.contract.connections import connect
from service.contract.job import Lane
from service.contract.record import Record, RecordPolicy
from tests.support.lanes import HandWorker
from tests.support.processes import wait_for
from tests.support.valkey import Valkey

Submit = Callable[..., dict[str, Any]]


def samples(http: httpx.Client, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Valkey]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with Valkey(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _look_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "SECONDS_TO_REMEMBER", -1.0)


def test_without_redis_nothing_is_accepted_and_the_gateway_comes_back(
    own_server: Valkey, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    form: dict[str, Any] = {"data": {"prompt": "x"}, "files": {"image": ("a", picture)}}
    with (
        open_gateway(own_server.url, tmp_path / "storage") as gateway,
        httpx.Client(base_url=gateway.url, timeout=20) as http,
    ):
        job = http.post("/jobs", **form).json()["id"]
        own_server.kill()
        for answer in (http.post("/jobs", **form), http.get(f"/jobs/{job}")):
            assert answer.status_code == 503
            assert answer.json()["code"] == "record_unavailable"
            assert answer.json()["retryable"] is True
            assert int(answer.headers["retry-after"]) > 0
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"] == {
            "redis": {"ok": False, "fault": "ConnectionError"},
            "storage": {"ok": True, "fault": None},
        }
        wait_for(lambda: samples(http, "framepack_sweeps_total").get((("outcome", "unavailable"),)))

        own_server.start()
        assert http.get("/readyz").status_code == 200
        assert http.get(f"/jobs/{job}").json()["status"] == "queued"
        before = samples(http, "framepack_sweeps_total")[(("outcome", "ok"),)]
        wait_for(lambda: samples(http, "framepack_sweeps_total")[(("outcome", "ok"),)] > before)


def test_an_accepted_job_is_said_to_be_accepted_even_if_it_cannot_be_read(
    own_server: Valkey, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    with (
        open_gateway(own_server.url, tmp_path / "storage") as gateway,
        connect(own_server.url) as client,
    ):
        client.execute_command("ACL", "SETUSER", "default", "-hgetall")
        answer = httpx.post(f"{gateway.url}/jobs", data={"prompt": "x"}, files={"image": picture})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        client.execute_command("ACL", "SETUSER", "default", "+hgetall")
        read = httpx.get(answer.headers["location"]).json()
        assert {**read, "created_at": 0, "queue_position": 0} == {
            **answer.json(),
            "created_at": 0,
            "queue_position": 0,
        }


def test_a_server_that_cannot_write_is_an_outage(
    own_server: Valkey, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    form: dict[str, Any] = {"data": {"prompt": "x"}, "files": {"image": ("a", picture)}}
    with open_gateway(own_server.url, tmp_path / "storage") as gateway:
        assert httpx.post(f"{gateway.url}/jobs", **form).status_code == 202
        with connect(own_server.url) as client:
            client.config_set("maxmemory", "1")
        answer = httpx.post(f"{gateway.url}/jobs", **form)
        assert (answer.status_code, answer.json()["code"]) == (503, "record_unavailable")


def test_too_many_waiting_submissions_are_sent_away(
    http: httpx.Client, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "MOST_WAITING", 0)
    answer = http.post("/jobs", data={"prompt": "x"}, files={"image": picture})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert answer.headers["retry-after"]


def test_without_storage_nothing_is_accepted(
    redis_url: str, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    storage = tmp_path / "storage"
    with (
        open_gateway(redis_url, storage) as gateway,
        httpx.Client(base_url=gateway.url) as http,
    ):
        storage.rename(tmp_path / "gone")
        storage.write_text("a file where the folder was")
        answer = http.post("/jobs", data={"prompt": "x"}, files={"image": ("a", picture)})
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert answer.headers["retry-after"]
        checks = http.get("/readyz").json()["checks"]
        assert checks["redis"]["ok"] is True
        assert checks["storage"] == {"ok": False, "fault": "StorageError"}
    with connect(redis_url) as client:
        assert client.keys("framepack:job:*") == []


def test_an_unsafe_server_found_later_stops_acceptance(
    own_server: Valkey, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    with connect(own_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with open_gateway(own_server.url, tmp_path / "storage") as gateway:
        form: dict[str, Any] = {"data": {"prompt": "x"}, "files": {"image": ("a", picture)}}
        answer = httpx.post(f"{gateway.url}/jobs", **form)
        assert (answer.status_code, answer.json()["code"]) == (503, "record_unsafe")
        assert httpx.get(f"{gateway.url}/readyz").json()["checks"]["redis"]["ok"] is False


def test_requests_are_counted_by_route_and_never_by_id(http: httpx.Client, submit: Submit) -> None:
    name = "framepack_http_requests_total"
    read = (("method", "GET"), ("route", "/jobs/{job_id}"), ("status", "200"))
    lost = (("method", "GET"), ("route", "none"), ("status", "404"))
    before = samples(http, name)
    job = submit()
    http.get(f"/jobs/{job['id']}")
    http.get(f"/{job['id']}")
    after = samples(http, name)
    assert after[read] == before.get(read, 0) + 1
    assert after[lost] == before.get(lost, 0) + 1
    assert job["id"] not in http.get("/metrics").text
    durations = samples(http, "framepack_http_request_seconds_count")
    assert durations[(("method", "GET"), ("route", "/jobs/{job_id}"))] >= 1


def test_all_that_a_gateway_can_count_is_there_from_the_start(
    own_server: Valkey, tmp_path: Path, open_gateway: Any
) -> None:
    """The first event of a series that was not there before is invisible to `rate`."""
    with open_gateway(own_server.url, tmp_path / "storage") as gateway:
        text = httpx.get(f"{gateway.url}/metrics").text
        document = httpx.get(f"{gateway.url}/openapi.json").json()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counted = {
        name: {tuple(sorted(s.labels.items())) for s in family.samples if "le" not in s.labels}
        for name, family in families.items()
        if name.startswith("framepack_") and family.type in ("counter", "histogram")
    }
    assert [name for name, series in counted.items() if not series] == []
    answers = {
        tuple((name, value.replace(":path}", "}")) for name, value in labels)
        for labels in counted["framepack_http_requests"]
    }
    for route, operations in document["paths"].items():
        for method, operation in operations.items():
            for status in {*operation["responses"], "500"}:
                about = {"method": method.upper(), "route": route, "status": status}
                assert tuple(sorted(about.items())) in answers
    for outcome in ("ok", "unavailable", "error"):
        assert (("outcome", outcome),) in counted["framepack_sweeps"]
        assert (("outcome", outcome),) in counted["framepack_cleanings"]


def test_the_log_holds_no_signature_and_no_prompt(
    http: httpx.Client, submit: Submit, worker: HandWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service")
    job = submit(prompt="a secret prompt")
    worker.run_all(1)
    httpx.get(http.get(f"/jobs/{job['id']}/video").headers["location"])
    # Not what the client of this test logs of itself.
    told = "\n".join(
        each.getMessage() for each in caplog.records if each.name.startswith("service")
    )
    assert re.search(r"GET /files/\{key:path\} 200 [\d.]+ ms", told)
    assert "signature" not in told
    assert "secret" not in told


def test_the_sweeper_gives_a_dead_workers_task_to_another(
    own_server: Valkey, tmp_path: Path, picture: bytes, open_gateway: Any
) -> None:
    with (
        open_gateway(own_server.url, tmp_path / "storage") as gateway,
        httpx.Client(base_url=gateway.url) as http,
        connect(own_server.url) as client,
    ):
        http.post("/jobs", data={"prompt": "x"}, files={"image": ("a", picture)})
        record = Record(client, RecordPolicy(lease_ms=100, backoff_ms=(0,)))
        dead = HandWorker(record, gateway.app.state.services.storage).claim(Lane.RENDER)
        client.delete("rq:queue:render.tiny")
        wait_for(lambda: client.llen("rq:queue:render.tiny") > 0)
        assert samples(http, "framepack_leases_lapsed_total")[()] >= 1
        again = HandWorker(record, gateway.app.state.services.storage).claim(Lane.RENDER)
        assert (again.job_id, again.fence, again.crashes) == (dead.job_id, dead.fence + 1, 1)
