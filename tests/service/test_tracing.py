"""One trace a job: from the client's request through the record to the workers' spans."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.contract.connections import connect
from service.contract.record import Record
from service.contract.tracing import current_traceparent, part, working
from tests.support.jobs import make_spec

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The process's spans; OpenTelemetry takes one provider a process, for good."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_a_job_carries_the_clients_trace_to_the_workers(
    spans: InMemorySpanExporter, http: httpx.Client, picture: bytes, redis_url: str
) -> None:
    answer = http.post(
        "/jobs",
        data={"prompt": "a secret prompt", "seconds": "1"},
        files={"image": ("a", picture)},
        headers={"traceparent": CLIENT},
    )
    assert answer.status_code == 202
    # FastAPI traces its own steps too.
    (submitted,) = [span for span in spans.get_finished_spans() if span.name == "submit job"]
    assert trace_id(submitted) == CLIENT.split("-")[1]
    assert submitted.context is not None
    assert submitted.parent is not None
    assert f"{submitted.parent.span_id:016x}" == CLIENT.split("-")[2]

    with connect(redis_url) as redis:
        kept = Record(redis).spec(answer.json()["id"]).traceparent
    assert kept.split("-")[1:3] == [trace_id(submitted), f"{submitted.context.span_id:016x}"]

    spans.clear()
    with working("sample", kept, {"framepack.task": 1}), part("dit"):
        assert current_traceparent()
    stage, task = spans.get_finished_spans()
    assert (stage.name, task.name) == ("dit", "sample")
    assert {trace_id(stage), trace_id(task)} == {CLIENT.split("-")[1]}
    (link,) = task.links
    assert link.context.span_id == submitted.context.span_id
    assert stage.parent == task.context
    shown = "".join(span.to_json() for span in (submitted, task, stage))
    assert "a secret prompt" not in shown


@pytest.mark.parametrize("damaged", ["", "nonsense", "00-0-0-01"])
def test_a_job_without_a_trace_gets_its_own(spans: InMemorySpanExporter, damaged: str) -> None:
    with working("decode", damaged, {}):
        pass
    (task,) = spans.get_finished_spans()
    assert task.parent is None
    assert not task.links


def test_jobs_of_before_have_no_trace() -> None:
    stored = json.loads(make_spec().model_dump_json())
    del stored["traceparent"]
    assert make_spec().model_validate(stored).traceparent == ""


def test_tracing_is_off_and_loads_nothing_unless_asked_for() -> None:
    program = (
        "import sys\n"
        "from service.contract.tracing import current_traceparent, send_traces, working\n"
        "send_traces('', 'x')\n"
        "with working('sample', '', {}):\n"
        "    assert current_traceparent() == ''\n"
        "assert not any(name.startswith('opentelemetry.sdk') for name in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
