import urllib.request

from tests.support.valkey import free_port
from worker.metrics import WorkerMetrics


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


def test_two_in_a_process_do_not_share_counts() -> None:
    first, second = WorkerMetrics(), WorkerMetrics()
    first.leases_lost.inc()
    name = "framepack_leases_lost_total"
    assert first.registry.get_sample_value(name) == 1
    assert second.registry.get_sample_value(name) == 0
