"""Every panel asks a real Prometheus, which scrapes the real service while jobs run.

Grafana is in no package registry, so its drawing is not tested: what a panel asks for is. With
FRAMEPACK_PLOTS=folder each panel's answer is drawn there as a PNG, to be looked at.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from framepack.models.tiny import build_folder
from service.contract.job import Lane
from tests.support.fleet import Fleet, frozen, picture, wait_for
from tests.support.gateway import gateway
from tests.support.plots import drawn
from tests.support.prometheus import Prometheus, Series
from tests.support.receiver import Receiver
from tests.support.valkey import Valkey, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "grafana" / "dashboards"

ONLY_WITH_A_GPU = {
    "VRAM allocated",
    "VRAM reserved",
    "VRAM peak of a task",
    "GPU utilisation",
    "Tensor cores at work",
    "GPU power",
    "GPU temperature",
}
"""Panels that show nothing here; what fills the first three is in tests/worker/test_gpu.py."""


def dashboards() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


PANELS = {panel["title"]: panel for board in dashboards().values() for panel in board["panels"]}
"""By title: a panel that is on two dashboards is one and the same, and is asked once."""

NEVER_RISE = {"API error ratio", "Stored objects deleted", "Stored bytes deleted"}
"""What nothing in this short day makes rise; all other panels must show more than zeros."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has watched a service through a day's events, made short."""
    folder = tmp_path_factory.mktemp("watched")
    build_folder(folder / "nano", size="nano")
    (folder / "valkey").mkdir()
    rules = list((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    worker_port, gateway_port = _two_free_ports(), free_port()
    with (
        Valkey(folder / "valkey") as valkey,
        Receiver() as receiver,
        _swept_by_the_gateway(valkey.url, folder) as fleet,
        gateway(
            fleet,
            metrics_port=str(gateway_port),
            webhook_networks="127.0.0.0/8",
            webhook_retry_seconds="0.5",
        ) as http,
        Prometheus(
            folder,
            {
                "framepack-gateway": [gateway_port],
                "framepack-worker": [worker_port, worker_port + 1],
            },
            rules,
        ) as server,
    ):
        stated = {"metrics_port": str(worker_port), "device_tflops": "0.1"}
        fleet.start("supervise", **stated).wait_until_ready(len(Lane))
        wait_for(lambda: server.targets_up() == 3, 30.0)
        receiver.answers.append(500)
        _events(fleet, http, server, receiver.url)
        receiver.wait_for(2)
        ended = 'max(framepack_jobs_total{outcome="completed"})'
        wait_for(lambda: server.now(ended) == 4, 20.0)
        yield server


def _swept_by_the_gateway(redis_url: str, folder: Path) -> Fleet:
    fleet = Fleet(redis_url, folder / "nano", folder, lease_seconds="1.5")
    fleet.sweeps = False
    return fleet


def _events(fleet: Fleet, http: httpx.Client, server: Prometheus, webhook: str) -> None:
    """Jobs that are completed, cancelled, done again after a kill and after a freeze, followed."""
    first = _submit(http, webhook=json.dumps({"url": webhook}))
    with http.stream("GET", f"/jobs/{first}/events") as stream:
        for line in stream.iter_lines():
            if "section.sampled" in line:
                wait_for(lambda: server.now("framepack_sse_clients") == 1, 10.0)
                break
        fleet.wait_for_end(first)
    second = _submit(http)
    fleet.wait_for_step(second, 0, 10)
    cancelled = _submit(http)
    os.kill(fleet.supervised()["render"], signal.SIGKILL)
    fleet.wait_for(lambda: "retrying" in fleet.names(second), 90.0)
    fleet.wait_for(lambda: fleet.record.get(cancelled).status == "running", 90.0)
    assert http.post(f"/jobs/{cancelled}/cancel").status_code in (200, 202)
    assert fleet.wait_for_end(second).status == "completed"
    assert fleet.wait_for_end(cancelled).status == "cancelled"
    assert fleet.wait_for_end(_submit(http, quality="draft")).status == "completed"
    last = _submit(http, steps="100")
    fleet.wait_for_step(last, 0, 10)
    with frozen(fleet.supervised()["render"]):
        # Not left to the gateway's sweeper: one that is frozen for long is ended by its watchdog.
        fleet.wait_for(lambda: _swept(fleet, last))
    assert fleet.wait_for_end(last).status == "completed"


def _swept(fleet: Fleet, job_id: str) -> bool:
    fleet.bells.ring(fleet.record.sweep().ring)
    return "retrying" in fleet.names(job_id)


def _submit(http: httpx.Client, **more: str) -> str:
    form = {"prompt": "a red ball", "seconds": "3.6", "steps": "60", "seed": "7", **more}
    answer = http.post("/jobs", data=form, files={"image": ("a.png", picture())})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["id"]
    return job


def _two_free_ports() -> int:
    """A free port whose next one is free too."""
    while True:
        port = free_port()
        try:
            with httpx.Client() as client:
                client.get(f"http://127.0.0.1:{port + 1}", timeout=0.2)
        except httpx.TransportError:
            return port


def _asked(query: str) -> str:
    """A panel's query as Grafana sends it, for a window that fits scrapes of one second."""
    for variable, value in {"$__rate_interval": "5s", "$__range": "10m", "$preset": ".*"}.items():
        query = query.replace(variable, value)
    return query


@pytest.mark.slow
@pytest.mark.parametrize("title", PANELS)
def test_a_panel_finds_data(prometheus: Prometheus, title: str) -> None:
    panel = PANELS[title]
    answers = [prometheus.since_start(_asked(target["expr"])) for target in panel["targets"]]
    _plot(panel, answers)
    values = [v for series in answers for _, points in series for _, v in points]
    assert title in ONLY_WITH_A_GPU | NEVER_RISE or any(v > 0 for v in values), "only zeros"
    for target, series in zip(panel["targets"], answers, strict=True):
        finite = [points for _, points in series if any(math.isfinite(v) for _, v in points)]
        if title in ONLY_WITH_A_GPU:
            assert not finite, "this panel has data without a GPU: take it from the list"
        else:
            assert finite, f"no data for {target['expr']}"
            legends = {_legend(target["legendFormat"], labels) for labels, _ in series}
            assert len(legends) == len(series), f"series that look alike: {legends}"


@pytest.mark.slow
def test_whatever_is_exported_is_in_a_panel(prometheus: Prometheus) -> None:
    asked = " ".join(target["expr"] for panel in PANELS.values() for target in panel["targets"])
    assert {name for name in prometheus.names() if name not in asked} == set()


@pytest.mark.slow
def test_what_workers_are_scaled_by_rises_with_work_and_falls_to_nothing(
    prometheus: Prometheus,
) -> None:
    scaled = yaml.safe_load((DEPLOY / "k8s/overlays/h100/scaling.yaml").read_text())
    (trigger,) = scaled["spec"]["triggers"]

    def backlog() -> list[float]:
        ((_, points),) = prometheus.since_start(trigger["metadata"]["query"])
        return [value for _, value in points]

    assert max(backlog()) > 0
    wait_for(lambda: backlog()[-1] == 0, 20.0)


@pytest.mark.slow
def test_no_worker_at_work_seems_silent_for_long(prometheus: Prometheus) -> None:
    """As it did, for decades, from the start of a process to its first renewal of a lease."""
    (target,) = PANELS["Seconds since the last heartbeat of workers at work"]["targets"]
    found = prometheus.since_start(target["expr"])
    assert max(v for _, points in found for _, v in points) < 600


@pytest.mark.slow
def test_all_rules_can_be_evaluated(prometheus: Prometheus) -> None:
    assert prometheus.rule_faults() == []


@pytest.mark.slow
def test_what_happened_is_what_is_shown(prometheus: Prometheus) -> None:
    """The numbers themselves, as the events above make them."""

    last = prometheus.now
    assert last('framepack_jobs_total{outcome="completed"}') == 4
    assert last('framepack_jobs_total{outcome="cancelled"}') == 1
    assert last('framepack_jobs_total{outcome="failed"}') == 0
    assert last('sum(framepack_retries_total{reason="worker_lost"})') >= 2
    assert last("framepack_leases_lapsed_total") >= 1
    assert last("sum(framepack_leases_lost_total)") == 1
    assert last('framepack_webhook_attempts_total{outcome="retried"}') == 1
    assert last('framepack_webhook_attempts_total{outcome="delivered"}') == 1
    assert last("framepack_cancel_latency_seconds_count") == 1
    assert last("sum(framepack_cache_skipped_steps_total)") > 0
    assert last("framepack_sections_total") >= 9
    assert last("framepack_backlog_gpu_seconds") == 0
    assert max(v for _, v in prometheus.since_start("framepack_backlog_gpu_seconds")[0][1]) > 0


def test_the_files_are_what_the_code_writes() -> None:
    build = _build_module()
    written = {board.uid: build.document(board) for board in build.DASHBOARDS}
    assert dashboards() == written, "run deploy/grafana/build.py"


def test_panels_that_need_a_gpu_say_so() -> None:
    titles = {
        panel["title"]
        for dashboard in dashboards().values()
        for panel in dashboard["panels"]
        if panel["description"].startswith("Needs a GPU")
    }
    assert titles == ONLY_WITH_A_GPU


def test_no_query_names_an_instance_or_an_id() -> None:
    for path in FOLDER.glob("*.json"):
        assert not re.search(r"job_id=|tenant|prompt", path.read_text())


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)


def _build_module() -> Any:
    spec = importlib.util.spec_from_file_location("dashboards", DEPLOY / "grafana" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _plot(panel: dict[str, Any], answers: list[list[Series]]) -> None:
    """Draw a panel's answers for people to look at, where they ask for it."""
    folder = os.environ.get("FRAMEPACK_PLOTS")
    if not folder:
        return
    found = [
        (_legend(target["legendFormat"], labels), points)
        for target, series in zip(panel["targets"], answers, strict=True)
        for labels, points in series
    ]
    title = f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]"
    name = re.sub(r"\W+", "-", panel["title"])
    drawn(title, found).save(Path(folder, f"{name}.png"))
