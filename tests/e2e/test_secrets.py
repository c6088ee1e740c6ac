"""Nothing secret in what the service writes down: a job full of marks, through real processes.

Gateway, supervisor and both workers log in JSON; the store is a real S3, Redis has a password. The
job has its ways through refusals, a store that fails and a webhook that is refused, so that lines
about errors are among what is searched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from redis import Redis

from framepack.models.tiny import build_folder
from service.contract.access import Access, Scope
from service.contract.connections import connect
from tests.faults.stack import BUCKET, Gateway, _make_bucket
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.fleet import Worker, picture, wait_for
from tests.support.receiver import Receiver
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift
from tests.support.valkey import Valkey, free_port

PROMPT, NEGATIVE = "a marmalade zeppelin", "no umbrella stands"
METADATA = "quixotic-metadata"
REDIS_PASSWORD, SIGNING, PEPPER = "redis-hunter2", "signing-hunter3", "pepper-hunter4"
HOOK = "/hook-of-nobody-else"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Said:
    """What the service wrote down, and the marks that must not be in it.

    Attributes:
        logs: All lines, as objects.
        public: Metrics, refusals and stored events.
    """

    job: str = ""
    logs: list[dict[str, Any]] = field(default_factory=list)
    public: str = ""
    marks: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def said(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "valkey").mkdir()
    build_folder(folder / "nano", size="nano")
    port, metrics = free_port(), free_port()
    _make_bucket(swift.endpoint)
    with (
        Valkey(folder / "valkey") as valkey,
        FaultyStore(swift.ports["proxy"]) as store,
        Receiver() as receiver,
    ):
        with Redis(port=valkey.port) as client:
            client.config_set("requirepass", REDIS_PASSWORD)
        redis_url = f"redis://:{REDIS_PASSWORD}@127.0.0.1:{valkey.port}/0"
        with connect(redis_url) as redis:
            key, _ = Access(redis, PEPPER.encode()).create("ann", tuple(Scope))
        settings = {
            "redis_url": redis_url,
            "storage_url": f"s3://{BUCKET}?endpoint=http://127.0.0.1:{store.port}&region={REGION}",
            "public_url": f"http://127.0.0.1:{port}",
            "signing_secret": SIGNING,
            "key_pepper": PEPPER,
            "weights": json.dumps({"tiny": str(folder / "nano")}),
            "device": "cpu",
            "torch_threads": "1",
            "webhook_networks": "127.0.0.0/8",
            "webhook_retry_seconds": "0.2,0.2",
            "log_format": "json",
            "log_level": "DEBUG",
        }
        environment = {f"FRAMEPACK_{name.upper()}": value for name, value in settings.items()}
        environment |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        gateway = Gateway(port, environment, folder / "gateway.log")
        worker = Worker(
            ["supervise"],
            {**environment, "FRAMEPACK_METRICS_PORT": str(metrics)},
            folder / "workers.log",
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                wait_for(lambda: _ready(http), 60.0)
                worker.wait_until_ready(workers=2)
                said = Said()
                _use(said, http, key, receiver, store)
                with connect(redis_url) as redis:
                    said.public += _events(redis)
                for shown in (metrics, metrics + 1):
                    said.public += httpx.get(f"http://127.0.0.1:{shown}/metrics").text
        finally:
            gateway.end()
            worker.end()
        said.logs = [json.loads(line) for path in folder.glob("*.log") for line in _lines(path)]
        yield said


def _use(said: Said, http: httpx.Client, key: str, receiver: Receiver, store: FaultyStore) -> None:
    """A job from its refusals to its video, and all that is secret about it."""
    auth = {"Authorization": f"Bearer {key}"}
    hook = f"http://127.0.0.1:{receiver.port}{HOOK}"
    form = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seconds": "1", "steps": "2"}
    form |= {"metadata": json.dumps({"note": METADATA}), "webhook": json.dumps({"url": hook})}
    files = {"image": ("a.png", picture())}

    refusals: list[httpx.Response] = [
        http.post("/jobs", data=form, files=files, headers={"X-API-Key": f"{key}0"}),
        http.post("/jobs", data={**form, "steps": PROMPT}, files=files, headers=auth),
        http.post("/jobs", content=json.dumps({"prompt": PROMPT, NEGATIVE: 1}), headers=auth),
        http.post("/webhooks", json={"url": hook + "#" + METADATA}, headers=auth),
    ]
    refuse: list[Fault] = ["refuse"] * 10
    store.plan("PUT", *refuse)
    refusals.append(http.post("/jobs", data=form, files=files, headers=auth))
    receiver.answers.append(500)
    traced = {**auth, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "Idempotency-Key": SIGNING}
    for _ in range(5):  # until the planned faults are used up
        answer = http.post("/jobs", data=form, files=files, headers=traced)
        if answer.status_code == 202:
            break
    assert answer.status_code == 202, answer.text
    store.plan("PUT", "reset", "lose")
    said.job = answer.json()["id"]
    wait_for(lambda: _status(http, said.job, auth) == "completed", 90.0)
    receiver.wait_for(2)  # the refused one, and its repetition

    video = http.get(f"/jobs/{said.job}/video", headers=auth)
    link: str = video.headers.get("location") or video.json()["url"]
    assert httpx.get(link).content[4:8] == b"ftyp"
    refusals.append(httpx.get(re.sub(r"Signature=\w", "Signature=g", link)))
    token = http.get(f"/jobs/{said.job}/token", headers=auth).json()["token"]
    http.get(f"/jobs/{said.job}/preview?token={token}")
    secret = http.get("/webhooks/secret", headers=auth).json()["secret"]
    assert [each.status_code // 100 for each in refusals] == [4, 4, 4, 4, 5, 4]
    said.public += "".join(each.text for each in refusals[:-1])  # the last one's is the store's
    said.public += http.get("/metrics").text
    signature = re.search(r"Signature=(\w+)", link)
    assert signature is not None
    said.marks = {
        "API key": key.rpartition("_")[2],
        "prompt": PROMPT,
        "negative prompt": NEGATIVE,
        "metadata": METADATA,
        "Redis password": REDIS_PASSWORD,
        "signing secret": SIGNING,
        "pepper": PEPPER,
        "storage credential": SECRET_KEY,
        "link's signature": signature[1],
        "view token": token.partition(".")[2],
        "webhook's secret": secret.removeprefix("whsec_"),
        "webhook's address": HOOK,
    }


def test_no_line_of_any_process_holds_a_secret(said: Said) -> None:
    found = {
        (name, line["service"], line["logger"])
        for line in said.logs
        for name, mark in said.marks.items()
        if mark in json.dumps(line)
    }
    assert found == set()


def test_no_event_metric_or_refusal_holds_a_secret(said: Said) -> None:
    assert [name for name, mark in said.marks.items() if mark in said.public] == []


def test_the_search_would_find_what_is_there(said: Said) -> None:
    """Each process wrote lines, and a line that tells of the job is found by the job's id."""
    assert {line["service"] for line in said.logs} == {
        "framepack-gateway",
        "framepack-supervisor",
        "framepack-render",
        "framepack-deliver",
    }
    about = [line for line in said.logs if line.get("job_id") == said.job]
    tasks = {line["task"] for line in about if line.get("outcome") == "committed"}
    assert tasks == {"encode", "sample", "decode", "finish"}
    assert {line["trace_id"] for line in about if "task" in line} == {TRACE}
    assert any(line["level"] in ("WARNING", "ERROR") for line in said.logs)
    assert said.job in said.public
    assert all({"time", "level", "logger", "message", "process"} <= set(line) for line in said.logs)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _events(redis: Redis) -> str:
    """Every stream there is, as text."""
    names = [name for name in cast(list[str], redis.keys("*")) if redis.type(name) == "stream"]
    return "".join(f"{name} {redis.xrange(name)}" for name in names)


def _status(http: httpx.Client, job: str, headers: dict[str, str]) -> str:
    status: str = http.get(f"/jobs/{job}", headers=headers).json()["status"]
    assert status != "failed", http.get(f"/jobs/{job}", headers=headers).json()["error"]
    return status


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
