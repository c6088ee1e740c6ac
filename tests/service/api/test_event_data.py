"""Every event a job can have, on the wire, is what its model and the document say."""

import json
from typing import Any

import httpx

from service.client.sse import parse_events
from service.contract import events
from service.contract.errors import Problem
from service.contract.event_views import EVENT_DATA, SectionCompletedData, typed
from service.contract.events import Picture
from service.contract.job import Lane
from service.contract.views import EventView
from tests.service.conftest import Submit
from tests.support.lanes import HandWorker


def heard(job: dict[str, Any], **headers: str) -> list[EventView]:
    """All events of a job that has ended."""
    answer = httpx.get(job["links"]["events"], headers=headers)
    found = parse_events([answer.content])
    return [EventView.model_validate(json.loads(event.data)) for event in found]


def test_every_event_has_the_data_its_model_says(
    submit: Submit, worker: HandWorker, http: httpx.Client
) -> None:
    long = submit(seconds="2.4")
    worker.run(Lane.RENDER)
    lost = Problem(code="lost", title="Lost", detail="It was lost.", retryable=True)
    worker.record.fail(worker.claim(Lane.RENDER), lost)
    for action in ("pause", "resume"):
        http.post(f"/jobs/{long['id']}/{action}").raise_for_status()
    with httpx.stream("GET", long["links"]["events"]) as stream:
        live = parse_events(stream.iter_bytes())
        task = worker.claim(Lane.RENDER)
        worker.record.report_preview(task, 1, 4, Picture(b"x", 8, 8, "image/jpeg"))
        worker.record.report_step(task, 4, 4)
        passing: dict[str, EventView] = {}
        while not {"step", "preview"} <= set(passing):
            found = next(live)
            passing[found.name] = EventView.model_validate_json(found.data)
    worker.commit(task)
    worker.run(Lane.RENDER)
    worker.run(Lane.DELIVER, 3)
    failed, cancelled, stopping = submit(seed="2"), submit(seed="3"), submit(seed="4")
    http.post(f"/jobs/{cancelled['id']}/cancel").raise_for_status()
    full = Problem(code="no_space", title="Full", detail="The disk is full.")
    worker.record.fail(worker.claim(Lane.RENDER), full)
    held = worker.claim(Lane.RENDER)
    http.post(f"/jobs/{stopping['id']}/cancel").raise_for_status()
    worker.record.release(held)
    jobs = (long, failed, cancelled, stopping)
    told = [event for job in jobs for event in heard(job, **{"Last-Event-ID": "0"})]
    told += [*heard(long), *passing.values()]
    assert {event.type for event in told} == set(EVENT_DATA)
    for event in told:
        data = typed(event)
        assert data is not None
        assert set(event.data) <= set(type(data).model_fields), event.type
    (first, *_) = [data for event in told if isinstance(data := typed(event), SectionCompletedData)]
    assert first.clip.url.startswith("http")


def test_an_unknown_event_is_no_error() -> None:
    assert typed(EventView(job_id="x", type="of.tomorrow", data={"a": 1})) is None
    assert set(EVENT_DATA) >= events.TERMINAL


def test_the_document_holds_the_models(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {model.__name__ for model in EVENT_DATA.values()} <= set(schemas)
    told = document["paths"]["/jobs/{job_id}/events"]["get"]["responses"]["200"]["description"]
    for name, model in EVENT_DATA.items():
        assert f"| `{name}` | `{model.__name__}` |" in told
