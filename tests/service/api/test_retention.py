"""Jobs that are kept no longer: what their owner is told, and that their files really go."""

import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.__main__ import main
from service.api.cleaning import OWNER, Cleaner, ForeignStorage
from service.contract.keeping import Keeping
from service.contract.storage import open_storage
from tests.service.conftest import RunningGateway
from tests.support.processes import wait_for

Gateways = Callable[..., AbstractContextManager[RunningGateway]]
SECOND = 1 / (24 * 3600)


def form(picture: bytes) -> dict[str, Any]:
    return {"data": {"prompt": "x", "seconds": "1"}, "files": {"image": ("p.jpg", picture)}}


def test_an_expired_job_says_so_and_leaves_nothing(
    open_gateway: Gateways, redis_url: str, tmp_path: Path, picture: bytes
) -> None:
    # The cleaner comes by every quarter of the age.
    short = {"retention_days": SECOND, "sweep_hours": 1 / 3600}
    with open_gateway(redis_url, tmp_path, **short) as gateway:
        http = httpx.Client(base_url=gateway.url, timeout=20)
        job = http.post("/jobs", **form(picture)).json()
        kept = http.post("/jobs", **form(picture), params={}).json()
        folder = tmp_path / "jobs" / job["id"]
        assert (folder / "image.png").is_file()
        ended = http.post(f"/jobs/{job['id']}/cancel").json()
        shown = http.get(f"/jobs/{job['id']}").json()
        assert ended["status"] == "cancelled"
        assert shown["expires_at"] > shown["finished_at"]
        token = http.get(f"/jobs/{job['id']}/token").json()
        # From here on the gateway knows it as a job that is followed.
        http.get(f"/jobs/{job['id']}/events", headers={"Last-Event-ID": "1"})
        wait_for(lambda: http.get(f"/jobs/{job['id']}").status_code == 410)
        for path in ("", "/video", "/events"):
            answer = http.get(f"/jobs/{job['id']}{path}")
            assert answer.status_code == 410
            assert answer.json()["code"] == "job_expired"
        for url in (f"/jobs/{job['id']}/events?after=1", token["events"], token["playlist"]):
            assert http.get(url).json()["code"] == "job_expired"
        assert http.post(f"/jobs/{job['id']}/cancel").status_code == 410
        assert [each["id"] for each in http.get("/jobs").json()["data"]] == [kept["id"]]
        wait_for(lambda: not list(folder.glob("*")))
        assert (tmp_path / "jobs" / kept["id"] / "image.png").is_file(), "an open job lost files"
        wait_for(lambda: 'framepack_deleted_objects_total{reason="expired"} 1.0' in metrics(http))
        http.close()


def metrics(http: httpx.Client) -> str:
    return http.get("/metrics").text


def test_a_job_may_say_how_long_it_is_kept(http: httpx.Client, submit: Any) -> None:
    job = submit(retention_seconds="3600")
    http.post(f"/jobs/{job['id']}/cancel")
    shown = http.get(f"/jobs/{job['id']}").json()
    assert shown["input"]["retention_seconds"] == 3600
    kept = [time.mktime(time.strptime(shown[f"{name}_at"][:19], "%Y-%m-%dT%H:%M:%S"))
            for name in ("finished", "expires")]  # fmt: skip
    assert kept[1] - kept[0] == 3600


@pytest.mark.parametrize("seconds", ["59", "7776001", "x", "-1"])
def test_times_out_of_bounds_are_refused(http: httpx.Client, picture: bytes, seconds: str) -> None:
    data = {"prompt": "x", "seconds": "1", "retention_seconds": seconds}
    answer = http.post("/jobs", data=data, files={"image": ("p.jpg", picture)})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].endswith("retention_seconds")


@pytest.fixture
def cleaner(redis: Any, tmp_path: Path) -> Cleaner:
    return Cleaner(Keeping(redis), open_storage(f"file://{tmp_path}"), 60)


def store(folder: Path, job_id: str, age: float) -> Path:
    path = folder / "jobs" / job_id / "image.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1234")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_old_files_that_nobody_knows_go(cleaner: Cleaner, redis: Any, tmp_path: Path) -> None:
    old, young = store(tmp_path, uuid.uuid4().hex, 61), store(tmp_path, uuid.uuid4().hex, 1)
    announced = store(tmp_path, "a" * 32, 61)
    Keeping(redis).announce("a" * 32)
    assert [each.size_bytes for each in cleaner.strays(dry_run=True)] == [4]
    assert old.exists(), "a dry run deleted something"
    assert [each.reason for each in cleaner.strays()] == ["stray"]
    assert (old.exists(), young.exists(), announced.exists()) == (False, True, True)


def test_an_emptied_record_deletes_no_video(cleaner: Cleaner, redis: Any, tmp_path: Path) -> None:
    old = store(tmp_path, uuid.uuid4().hex, 61)
    cleaner.require_ownership()
    redis.flushall()
    with pytest.raises(ForeignStorage):
        list(cleaner.strays())
    assert old.exists()
    cleaner.require_ownership(adopt=True)
    assert [each.reason for each in cleaner.strays()] == ["stray"]
    assert not old.exists()


def test_a_cleaner_that_died_is_followed_by_another(
    cleaner: Cleaner, redis: Any, tmp_path: Path
) -> None:
    first, second = "a" * 32, "b" * 32
    files = [store(tmp_path, each, 61) for each in (first, second)]
    keeping = Keeping(redis)
    for each in (first, second):
        redis.zadd("framepack:uploads", {each: 1})
    next(cleaner.due())  # and never goes on
    assert sum(path.exists() for path in files) == 1
    list(cleaner.due())
    assert not any(path.exists() for path in files)
    assert keeping.due(0) == []


def test_the_command_shows_and_sweeps(
    redis_url: str,
    redis: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FRAMEPACK_REDIS_URL", redis_url)
    monkeypatch.setenv("FRAMEPACK_STORAGE_URL", f"file://{tmp_path}")
    monkeypatch.setenv("FRAMEPACK_SWEEP_HOURS", str(60 / 3600))
    old = store(tmp_path, uuid.uuid4().hex, 61)
    assert main(["sweep", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"dry_run": True, "objects": {"stray": 1}, "bytes": {"stray": 4}}
    redis.flushall()
    assert main(["sweep"]) == 1
    assert "another record" in capsys.readouterr().err
    assert old.exists()
    assert main(["sweep", "--adopt"]) == 0
    assert capsys.readouterr().out == "deleted 1 stray, 4 bytes\n"
    assert not old.exists()
    assert (tmp_path / OWNER).is_file()
