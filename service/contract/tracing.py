"""Traces by OpenTelemetry: one trace a job, from the request that made it to its video.

Off unless an address to send to is set: the API's own tracer then does nothing. A job waits for
minutes in between, so what continues is the context kept in its record: a worker's span is in the
job's trace and *linked* to the request's span, as messaging spans are. Names and attributes hold no
prompt and no tenant; the job's id is an attribute, which a trace, unlike a metric, may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import inject
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_HEADER = "traceparent"
_QUEUE = {"messaging.system": "redis", "messaging.destination.name": "framepack:jobs"}


class TracingUnavailable(Exception):  # noqa: N818 - reads as what it is at the raise site
    """Traces should be sent, and what sends them is not installed."""


def send_traces(endpoint: str, service: str) -> None:
    """Send this process's spans by OTLP over HTTP; nothing to do without an endpoint.

    Args:
        endpoint: ``http://host:4318/v1/traces``, or empty.
        service: The process's name in the traces.

    Raises:
        TracingUnavailable: The extra ``tracing`` is not installed.
    """
    if not endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingUnavailable(
            "FRAMEPACK_TRACES_ENDPOINT is set; install framepack-service[tracing] or unset it"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)


def _tracer() -> trace.Tracer:
    return trace.get_tracer("framepack")


@contextmanager
def accepting(headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request that submits a job; continues the client's trace if it has one."""
    came_from = _context(headers.get(_HEADER, ""))
    with _tracer().start_as_current_span(
        "submit job",
        context=came_from,
        kind=SpanKind.PRODUCER,
        attributes={**_QUEUE, "messaging.operation.type": "send"},
    ) as span:
        yield span


def current_traceparent() -> str:
    """The current span as a job's record keeps it; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(_HEADER, "")


def current_trace() -> dict[str, str]:
    """``trace_id`` and ``span_id`` of the current span in hex; nothing when nothing is traced."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}


@contextmanager
def continuing(traceparent: str) -> Iterator[None]:
    """What happens inside belongs to a request's trace, if it came with one."""
    token = attach(_context(traceparent))
    try:
        yield
    finally:
        detach(token)


@contextmanager
def working(name: str, traceparent: str, attributes: Mapping[str, str | int]) -> Iterator[Span]:
    """The span of one task of a job, linked to the request that submitted the job.

    Args:
        name: Kind of the task.
        traceparent: As the record keeps it; empty for a job that is not traced.
        attributes: Of the span.
    """
    context = _context(traceparent)
    submitted = trace.get_current_span(context).get_span_context()
    with _tracer().start_as_current_span(
        name,
        context=context,
        kind=SpanKind.CONSUMER,
        links=[Link(submitted)] if submitted.is_valid else [],
        attributes={**_QUEUE, "messaging.operation.type": "process", **attributes},
    ) as span:
        yield span


@contextmanager
def part(name: str, **attributes: str | int) -> Iterator[Span]:
    """A span inside the current one."""
    with _tracer().start_as_current_span(name, attributes=attributes) as span:
        yield span


def past(name: str, began_ns: int, attributes: Mapping[str, str | int | Sequence[int]]) -> None:
    """A span inside the current one of what began then and ends now.

    Args:
        name: Of the span.
        began_ns: By `time.time_ns`.
        attributes: Of the span.
    """
    _tracer().start_span(name, start_time=began_ns, attributes=attributes).end()


def _context(traceparent: str) -> Context:
    # An empty or damaged header gives the empty context, that is, a trace of its own.
    return _PROPAGATOR.extract({_HEADER: traceparent}, context=Context())
