import re
import urllib.request
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest

from service.contract.job import Lane
from service.contract.task import Task
from tests.support.jobs import make_spec
from tests.support.valkey import free_port
from worker.metrics import KINDS, OUTCOMES, STAGES, WorkerMetrics


def test_metrics_are_shown_where_asked() -> None:
    metrics = WorkerMetrics()
    metrics.step_seconds.labels("tiny").observe(0.3)
    metrics.tasks.labels("tiny", "sample", "committed").inc()
    metrics.leases_lost.inc()
    metrics.memory({"peak": 2**30})
    port = free_port()
    metrics.serve("127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    assert 'framepack_step_seconds_bucket{le="0.5",preset="tiny"} 1.0' in lines
    assert 'framepack_step_seconds_bucket{le="0.2",preset="tiny"} 0.0' in lines
    committed = 'framepack_tasks_total{kind="sample",outcome="committed",preset="tiny"} 1.0'
    assert committed in lines
    assert "framepack_leases_lost_total 1.0" in lines
    assert "framepack_vram_peak_bytes 1.073741824e+09" in lines


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_is_ready_when_it_takes_tasks(host: str) -> None:
    metrics, port = WorkerMetrics(), free_port()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        metrics.serve(host, port)
    except OSError:
        pytest.skip(f"{host} is no address of this machine")

    def status() -> int:
        return httpx.get(f"{url}/readyz").status_code

    assert status() == 503
    for state, ready in {"loading": 503, "idle": 200, "working": 200, "draining": 503}.items():
        metrics.now(Lane.RENDER, state)
        assert status() == ready
    assert "framepack_worker_state" in httpx.get(f"{url}/metrics").text


def test_two_in_a_process_do_not_share_counts() -> None:
    first, second = WorkerMetrics(), WorkerMetrics()
    first.leases_lost.inc()
    name = "framepack_leases_lost_total"
    assert first.registry.get_sample_value(name) == 1
    assert second.registry.get_sample_value(name) == 0


@pytest.mark.parametrize("lane", Lane)
def test_whatever_can_be_counted_begins_with_zero(lane: Lane) -> None:
    """The first event of a series that was not there before is invisible to `rate`."""
    metrics = WorkerMetrics()
    metrics.expect(lane, ["tiny", "tiny-wan"])
    lines = generate_latest(metrics.registry).decode().splitlines()
    counted = [line for line in lines if re.match(r"framepack_\w+_(total|count)\b", line)]
    assert counted
    assert all(line.endswith(" 0.0") for line in counted)
    for preset in ("tiny", "tiny-wan"):
        for kind in KINDS[lane]:
            for outcome in OUTCOMES:
                labels = f'kind="{kind}",outcome="{outcome}",preset="{preset}"'
                assert f"framepack_tasks_total{{{labels}}} 0.0" in counted
        for stage in STAGES[lane]:
            labels = f'preset="{preset}",stage="{stage}"'
            assert f"framepack_section_seconds_count{{{labels}}} 0.0" in counted
        steps = f'framepack_step_seconds_count{{preset="{preset}"}} 0.0'
        assert (steps in counted) == (lane is Lane.RENDER)
    started = {re.split(r"[{ ]", line)[0].removesuffix("_count") for line in counted}
    families = {line.split()[2] for line in lines if line.endswith((" counter", " histogram"))}
    ours = {name for name in families if name.startswith("framepack_")}
    assert ours - started == (set() if lane is Lane.RENDER else OF_RENDERING)


OF_RENDERING = {
    "framepack_step_seconds",
    "framepack_model_flops_total",
    "framepack_cache_skipped_steps_total",
    "framepack_seconds_per_frame",
}


@pytest.mark.parametrize("lane", Lane)
def test_the_kinds_of_a_lane_are_those_of_its_tasks(lane: Lane) -> None:
    spec = make_spec(sections=2)
    numbers = range(spec.num_sections + 1)
    tasks = [Task("1", lane, number, 1, 0, spec, {}) for number in numbers]
    assert {task.kind for task in tasks} == set(KINDS[lane])


def test_the_stages_are_those_that_tasks_measure() -> None:
    folder = Path(__file__).parents[2] / "worker" / "tasks"
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    measured = set(re.findall(r'\.stage\("(\w+)"\)', code))
    assert measured == {stage for stages in STAGES.values() for stage in stages}
