"""One trace from the client's request to the workers and the webhook, through real processes."""

from collections import Counter
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from framepack.models.tiny import build_folder
from service.contract.job import Lane
from tests.support.fleet import Fleet, picture, wait_for
from tests.support.gateway import gateway
from tests.support.otlp import Collector, collecting
from tests.support.receiver import Receiver
from tests.support.valkey import Valkey

TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROMPT = "a prompt that no trace may hold"
SECTIONS, STEPS = 2, 12


@pytest.fixture(scope="module")
def job_and_spans(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Collector, Receiver]]:
    """A finished job of two sections with a webhook, and all spans that its processes sent."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "valkey").mkdir()
    build_folder(folder / "nano", size="nano")
    with (
        collecting() as collector,
        Receiver() as receiver,
        Valkey(folder / "valkey") as valkey,
        Fleet(valkey.url, folder / "nano", folder, traces_endpoint=collector.url) as fleet,
        gateway(fleet, traces_endpoint=collector.url, webhook_networks="127.0.0.0/8") as http,
    ):
        for worker in [fleet.start_lane(lane) for lane in Lane]:
            worker.wait_until_ready()
        form = {"prompt": PROMPT, "seconds": "2.4", "steps": str(STEPS), "seed": "7"}
        form |= {"webhook": f'{{"url": "{receiver.url}", "events": ["job.completed"]}}'}
        answer = http.post(
            "/jobs",
            data=form,
            files={"image": ("a.png", picture())},
            headers={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"},
        )
        assert answer.status_code == 202, answer.text
        job: str = answer.json()["id"]
        assert fleet.wait_for_end(job).status == "completed"
        # Spans are sent in batches, some seconds later, by each process on its own.
        wait_for(lambda: len(collector.named("sample")) == SECTIONS, 30.0)
        wait_for(lambda: {"finish", "webhook", "submit job"} <= collector.names(), 30.0)
        yield job, collector, receiver


def spans_of(collector: Collector) -> list[tuple[str, Span]]:
    """Those of the client's trace."""
    return [(who, span) for who, span in collector.spans if span.trace_id.hex() == TRACE]


def test_every_stage_is_in_the_clients_trace(
    job_and_spans: tuple[str, Collector, Receiver],
) -> None:
    _, collector, _ = job_and_spans
    found = Counter((who, span.name) for who, span in spans_of(collector))
    render, deliver = "framepack-render", "framepack-deliver"
    assert found["framepack-gateway", "submit job"] == 1
    assert found[render, "encode"] == 2  # the task and its stage
    assert found[render, "sample"] == found[render, "dit"] == SECTIONS
    assert found[render, "steps"] == SECTIONS * 3  # five, five and the two that are left
    assert found[deliver, "decode"] == found[deliver, "vae"] == found[deliver, "mp4"] == SECTIONS
    assert found[deliver, "finish"] == found[deliver, "mux"] == 1
    assert found[render, "upload"] == 1 + SECTIONS
    assert found[deliver, "upload"] == SECTIONS + 1
    assert found["framepack-gateway", "webhook"] == 1


def test_workers_and_webhooks_are_linked_to_the_request_across_the_queue(
    job_and_spans: tuple[str, Collector, Receiver],
) -> None:
    _, collector, _ = job_and_spans
    (submitted,) = collector.named("submit job")
    assert submitted.parent_span_id.hex() == CLIENT_SPAN
    consumers = [s for _, s in spans_of(collector) if s.kind == Span.SPAN_KIND_CONSUMER]
    assert Counter(span.name for span in consumers) == {
        "encode": 1,
        "sample": SECTIONS,
        "decode": SECTIONS,
        "finish": 1,
        "webhook": 1,
    }
    for span in consumers:
        (link,) = span.links
        assert (link.trace_id.hex(), link.span_id) == (TRACE, submitted.span_id)


def test_spans_lie_inside_their_parents(job_and_spans: tuple[str, Collector, Receiver]) -> None:
    _, collector, _ = job_and_spans
    by_id = {span.span_id: span for _, span in collector.spans}
    for parts, whole in (("steps", "dit"), ("dit", "sample"), ("mux", "finish")):
        for span in collector.named(parts):
            parent = by_id[span.parent_span_id]
            assert parent.name == whole
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano


def test_sections_and_steps_are_numbered(job_and_spans: tuple[str, Collector, Receiver]) -> None:
    job, collector, _ = job_and_spans

    def numbers(name: str, key: str) -> list[int]:
        return sorted(
            each.value.int_value
            for span in collector.named(name)
            for each in span.attributes
            if each.key == key
        )

    assert numbers("sample", "framepack.section") == [0, 1]
    assert numbers("steps", "framepack.steps.first") == [0, 0, 5, 5, 10, 10]
    assert numbers("steps", "framepack.steps.end") == [5, 5, 10, 10, STEPS, STEPS]
    assert job in str(collector.named("webhook"))


def test_no_span_holds_the_prompt_or_the_webhooks_address(
    job_and_spans: tuple[str, Collector, Receiver],
) -> None:
    _, collector, receiver = job_and_spans
    shown = str(collector.spans)
    assert PROMPT not in shown
    assert receiver.url not in shown


def test_a_receiver_can_go_on_with_the_trace(
    job_and_spans: tuple[str, Collector, Receiver],
) -> None:
    _, collector, receiver = job_and_spans
    (sent,) = receiver.received
    (span,) = collector.named("webhook")
    assert sent.headers["traceparent"].split("-")[1:3] == [TRACE, span.span_id.hex()]
