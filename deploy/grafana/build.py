"""Writes the dashboards: `python deploy/grafana/build.py`. The JSON beside it is never edited.

A panel is a title, a unit and PromQL with its legend; everything else is the same for all. `max` is
taken over gateways for what the record counts, since every gateway shows it; `sum` for what each
process counts itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
WINDOW = "$__rate_interval"
PRESET = 'preset=~"$preset"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NEEDS_GPU = "Needs a GPU: "


@dataclass(frozen=True)
class Panel:
    """One panel; `queries` are (PromQL, legend), `kind` is Grafana's name of the drawing."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    text: str = ""
    kind: str = "timeseries"


@dataclass(frozen=True)
class Dashboard:
    """One dashboard; the uid stays, so that links do."""

    uid: str
    title: str
    panels: Sequence[Panel]


def rate(metric: str, by: str, matching: str = "", across: str = "sum") -> str:
    """Events a second, by labels."""
    return f"{across} by ({by}) (rate({metric}{{{matching}}}[{WINDOW}]))"


def seen(metric: str, by: str, matching: str = "") -> str:
    """Events a second, by labels, without the many label values that nothing was counted for."""
    counted = f"sum by ({by}) (increase({metric}{{{matching}}}[$__range])) > 0"
    return f"{rate(metric, by, matching)} and on ({by}) ({counted})"


def quantile(q: float, metric: str, by: str = "preset", across: str = "sum") -> str:
    """A quantile of a histogram, by labels."""
    matching = PRESET if "preset" in by else ""
    return f"histogram_quantile({q}, {rate(metric + '_bucket', f'le, {by}', matching, across)})"


def quantiles(metric: str, by: str = "preset", across: str = "sum") -> list[tuple[str, str]]:
    """Median and 95th percentile."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return [(quantile(q, metric, by, across), f"p{round(100 * q)} {legend}") for q in (0.5, 0.95)]


def heatmap(title: str, metric: str, across: str = "sum") -> Panel:
    """How a histogram moves with time."""
    query = rate(metric + "_bucket", "le", PRESET, across)
    return Panel(title, "s", [(query, "{{le}}")], kind="heatmap")


def gpu(title: str, unit: str, query: str, legend: str, text: str) -> Panel:
    """A panel that has data only where there is a GPU."""
    return Panel(title, unit, [(query, legend)], NEEDS_GPU + text)


OUTCOMES = Panel(
    "Jobs ended", "ops", [(rate("framepack_jobs_total", "outcome", PRESET, "max"), "{{outcome}}")]
)
BACKLOG = Panel(
    "Backlog in GPU-seconds",
    "s",
    [(f"max by (preset) (framepack_backlog_gpu_seconds{{{PRESET}}})", "{{preset}}")],
    "What one render worker would need for all that is left. Workers are scaled by this.",
)
WAIT = Panel(
    "Queue wait", "s", quantiles("framepack_queue_wait_seconds", across="max"),
    "From acceptance to the first task.",
)  # fmt: skip
TAKES = Panel("Job duration", "s", quantiles("framepack_job_seconds", across="max"))
ERRORS = Panel(
    "API error ratio",
    "percentunit",
    [
        (
            f'(sum(rate(framepack_http_requests_total{{status=~"5.."}}[{WINDOW}])) or vector(0))'
            f" / sum(rate(framepack_http_requests_total[{WINDOW}]))",
            "5xx",
        )
    ],
)
STATES = Panel(
    "Workers by state", "short",
    [("sum by (lane, state) (framepack_worker_state)", "{{lane}} {{state}}")],
)  # fmt: skip
SECTIONS = Panel(
    "Sections delivered", "ops",
    [(rate("framepack_sections_total", "preset", PRESET, "max"), "{{preset}}")],
)  # fmt: skip
RETRIES = Panel(
    "Retries by reason", "ops",
    [(rate("framepack_retries_total", "reason", PRESET, "max"), "{{reason}}")],
)  # fmt: skip
FRAMES = Panel("Seconds per output frame", "s", quantiles("framepack_seconds_per_frame"))
UP = Panel("Processes up", "short", [('sum by (job) (up{job=~"framepack.*"})', "{{job}}")])
RECORD_UP = Panel("Redis answers", "short", [("min(framepack_record_up)", "record")], kind="stat")
OPEN = Panel(
    "Open jobs by status", "short",
    [(f"max by (status) (framepack_open_jobs{{{PRESET}}})", "{{status}}")],
)  # fmt: skip
DEPTH = Panel(
    "Tasks that wait", "short",
    [(f"max by (preset, lane) (framepack_queue_depth{{{PRESET}}})", "{{preset}} {{lane}}")],
)  # fmt: skip

OVERVIEW = Dashboard(
    "framepack-overview",
    "FramePack / Overview",
    [
        RECORD_UP,
        UP,
        STATES,
        OUTCOMES,
        OPEN,
        BACKLOG,
        WAIT,
        TAKES,
        SECTIONS,
        FRAMES,
        ERRORS,
        RETRIES,
    ],
)

UTILISATION = (
    f"{rate('framepack_model_flops_total', 'instance', PRESET)}"
    f" / {rate('framepack_step_seconds_sum', 'instance', PRESET)}"
    " / max by (instance) (framepack_device_peak_flops > 0)"
)

WORKERS = Dashboard(
    "framepack-workers",
    "FramePack / Workers and GPUs",
    [
        Panel("Denoising step", "s", quantiles("framepack_step_seconds")),
        heatmap("Denoising steps over time", "framepack_step_seconds"),
        Panel(
            "Stage of a section, p95",
            "s",
            [(quantile(0.95, "framepack_section_seconds", "preset, stage"), "{{preset}} {{stage}}")],
        ),
        FRAMES,
        Panel(
            "Model-FLOP utilisation of denoising",
            "percentunit",
            [(UTILISATION, "{{instance}}")],
            "Operations the model needs, over seconds of steps, over the device's stated peak. "
            "Nothing where no peak is known: FRAMEPACK_DEVICE_TFLOPS.",
        ),
        Panel(
            "Steps skipped by a cache",
            "percentunit",
            [
                (
                    f"{rate('framepack_cache_skipped_steps_total', 'preset', PRESET)}"
                    f" / {rate('framepack_step_seconds_count', 'preset', PRESET)}",
                    "{{preset}}",
                )
            ],
            "Evaluations estimated instead of computed, for each step; guidance has several.",
        ),
        STATES,
        Panel(
            "Part of the time at work",
            "percentunit",
            [
                (
                    f"sum by (instance) (rate(framepack_task_seconds_sum[{WINDOW}]))",
                    "{{instance}}",
                )
            ],
            "Committed tasks only: work that was lost or given back does not count.",
        ),
        Panel(
            "Tasks by outcome", "ops",
            [(seen("framepack_tasks_total", "kind, outcome", PRESET), "{{kind}} {{outcome}}")],
        ),
        Panel("Leases lost", "ops", [(rate("framepack_leases_lost_total", "instance"), "{{instance}}")]),
        Panel(
            "Seconds since the last heartbeat of workers at work",
            "s",
            [
                (
                    "(time() - (framepack_heartbeat_timestamp_seconds > 0))"
                    ' * on (instance) group_left (lane) (framepack_worker_state{state="working"} == 1)',
                    "{{lane}} {{instance}}",
                )
            ],
        ),
        Panel(
            "Cold start", "s",
            [("framepack_cold_start_seconds > 0", "{{instance}}"),
             (f"max by (preset) (framepack_model_load_seconds{{{PRESET}}})", "models of {{preset}}")],
        ),
        Panel("Memory of workers", "bytes",
              [('process_resident_memory_bytes{job="framepack-worker"}', "{{instance}}")]),
        Panel("CPU of workers", "short",
              [(f'rate(process_cpu_seconds_total{{job="framepack-worker"}}[{WINDOW}])', "{{instance}}")]),
        gpu("VRAM allocated", "bytes", "framepack_vram_allocated_bytes > 0", "{{instance}}",
            "what tensors hold."),
        gpu("VRAM reserved", "bytes", "framepack_vram_reserved_bytes > 0", "{{instance}}",
            "what the process keeps."),
        gpu("VRAM peak of a task", "bytes", "framepack_vram_peak_bytes > 0", "{{instance}}",
            "the most since the last task began."),
        gpu("GPU utilisation", "percent", "DCGM_FI_DEV_GPU_UTIL", "{{gpu}}", "from dcgm-exporter."),
        gpu("Tensor cores at work", "percentunit", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "{{gpu}}",
            "from dcgm-exporter; falling while a job runs means a stall."),
        gpu("GPU power", "watt", "DCGM_FI_DEV_POWER_USAGE", "{{gpu}}", "from dcgm-exporter."),
        gpu("GPU temperature", "celsius", "DCGM_FI_DEV_GPU_TEMP", "{{gpu}}", "from dcgm-exporter."),
    ],
)  # fmt: skip

JOBS = Dashboard(
    "framepack-jobs",
    "FramePack / Jobs",
    [
        Panel("Jobs accepted", "ops",
              [(rate("framepack_jobs_accepted_total", "preset", PRESET, "max"), "{{preset}}")]),
        OUTCOMES, OPEN, DEPTH, BACKLOG, WAIT,
        heatmap("Queue wait over time", "framepack_queue_wait_seconds", "max"),
        TAKES, SECTIONS, RETRIES,
        Panel("Cancel latency", "s", quantiles("framepack_cancel_latency_seconds", across="max"),
              "From the request to cancel until no worker holds the job."),
        Panel("Leases that lapsed", "ops", [(rate("framepack_leases_lapsed_total", "job"), "{{job}}")],
              "Found by a gateway's sweeper: a worker died or was cut off."),
    ],
)  # fmt: skip

ROUTE = "method, route"
API = Dashboard(
    "framepack-api",
    "FramePack / API",
    [
        Panel("Requests", "reqps",
              [(seen("framepack_http_requests_total", ROUTE), "{{method}} {{route}}")]),
        Panel("Answers by status", "reqps",
              [(seen("framepack_http_requests_total", "status"), "{{status}}")]),
        ERRORS,
        Panel("Time until the answer begins, p50", "s",
              [(quantile(0.5, "framepack_http_request_seconds", ROUTE) + " >= 0", "{{method}} {{route}}")]),
        Panel("Time until the answer begins, p99", "s",
              [(quantile(0.99, "framepack_http_request_seconds", ROUTE) + " >= 0", "{{method}} {{route}}")]),
        Panel("Requests in progress", "short",
              [("sum by (instance) (framepack_http_requests_in_progress)", "{{instance}}")]),
        Panel("Event streams", "short", [("sum by (instance) (framepack_sse_clients)", "{{instance}}")]),
        Panel("Decoding a picture, p95", "s",
              [(quantile(0.95, "framepack_image_decode_seconds", "job"), "p95")]),
        Panel("Webhooks by outcome of an attempt", "ops",
              [(rate("framepack_webhook_attempts_total", "outcome"), "{{outcome}}")]),
        Panel("Time of an attempt at a webhook, p95", "s",
              [(quantile(0.95, "framepack_webhook_seconds", "job"), "p95")]),
        Panel("Sweeps", "ops", [
            (rate("framepack_sweeps_total", "outcome"), "of the record: {{outcome}}"),
            (rate("framepack_cleanings_total", "outcome"), "of the storage: {{outcome}}")]),
        Panel("Stored objects deleted", "ops",
              [(rate("framepack_deleted_objects_total", "reason"), "{{reason}}")],
              "Of expired jobs, of submissions that became no job, and what no job refers to."),
        Panel("Stored bytes deleted", "Bps",
              [(rate("framepack_deleted_bytes_total", "reason"), "{{reason}}")]),
        RECORD_UP,
        Panel("Memory of gateways", "bytes",
              [('process_resident_memory_bytes{job="framepack-gateway"}', "{{instance}}")]),
        Panel("CPU of gateways", "short",
              [(f'rate(process_cpu_seconds_total{{job="framepack-gateway"}}[{WINDOW}])',
                "{{instance}}")]),
    ],
)  # fmt: skip

DASHBOARDS = (OVERVIEW, WORKERS, JOBS, API)


def document(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    links = [
        {"title": other.title, "type": "link", "url": f"/d/{other.uid}", "keepTime": True,
         "includeVars": True}
        for other in DASHBOARDS if other is not dashboard
    ]  # fmt: skip
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["framepack"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": links,
        "templating": {"list": [_source_variable(), _preset_variable()]},
        "annotations": {"list": [_starts()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    position = {"x": 8 * (number % 3), "y": 8 * (number // 3), "w": 8, "h": 8}
    targets = [
        {"refId": chr(65 + place), "expr": query, "legendFormat": legend, "datasource": SOURCE,
         "format": "heatmap" if panel.kind == "heatmap" else "time_series"}
        for place, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "id": number + 1,
        "title": panel.title,
        "description": panel.text,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"calculate": False} if panel.kind == "heatmap" else {},
        "targets": targets,
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"}


def _preset_variable() -> dict[str, Any]:
    query = "label_values(framepack_open_jobs, preset)"
    return {
        "name": "preset", "label": "Preset", "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": "presets"}, "definition": query, "refresh": 2,
        "includeAll": True, "allValue": ".*", "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _starts() -> dict[str, Any]:
    return {
        "name": "Process starts", "enable": True, "datasource": SOURCE, "iconColor": "blue",
        "expr": 'changes(process_start_time_seconds{job=~"framepack.*"}[1m]) > 0',
        "titleFormat": "{{job}} {{instance}} started",
    }  # fmt: skip


def main() -> None:
    """Write all files."""
    for dashboard in DASHBOARDS:
        text = json.dumps(document(dashboard), indent=1) + "\n"
        (FOLDER / f"{dashboard.uid}.json").write_text(text, encoding="utf-8")
        sys.stdout.write(f"{dashboard.uid}: {len(dashboard.panels)} panels\n")


if __name__ == "__main__":
    main()
