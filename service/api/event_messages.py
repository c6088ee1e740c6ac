"""Events as the bytes of a stream, written once for all clients that follow the same job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from sse_starlette.event import ServerSentEvent

from service.api.links import Links
from service.api.plan_views import video_view
from service.contract.eventlog import Passing
from service.contract.events import COMPLETED, SECTION_COMPLETED, StepEvent
from service.contract.job import Artifact, Clip, Event, JobSpec
from service.contract.views import EventView, JobView, utc

RECONNECT_MILLISECONDS = 2000
MOST_REMEMBERED = 4096


class EventMessages:
    """Writes events, and remembers what it wrote last.

    Args:
        links: Make clips' links, which hold for a while.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self._written: OrderedDict[Hashable, tuple[Event | Passing, bytes]] = OrderedDict()

    def batch(self, spec: JobSpec, items: Sequence[Event | Passing]) -> bytes:
        """Some events of a job, one after the other."""
        return b"".join(self._message(spec, item) for item in items)

    def snapshot(self, view: JobView) -> bytes:
        """The job as it is now, as the first event of a stream."""
        event = EventView(
            job_id=view.id,
            sequence=view.last_sequence,
            type="snapshot",
            data=view.model_dump(mode="json"),
        )
        return _encoded(event, retry=RECONNECT_MILLISECONDS)

    def _message(self, spec: JobSpec, item: Event | Passing) -> bytes:
        if isinstance(item, Event):
            key: Hashable = (item.job_id, item.sequence, self._links.period)
        else:
            key = (item.job_id, type(item))
        known = self._written.get(key)
        # What passes has no number: only the very same object is the same.
        if known is not None and (isinstance(item, Event) or known[0] is item):
            self._written.move_to_end(key)
            return known[1]
        found = _encoded(self._shown(spec, item))
        self._written[key] = (item, found)
        if len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)
        return found

    def _shown(self, spec: JobSpec, event: Event | Passing) -> EventView:
        if isinstance(event, Passing):
            data = event.model_dump(mode="json", exclude={"job_id"})
            kind = "step" if isinstance(event, StepEvent) else "preview"
            return EventView(job_id=event.job_id, type=kind, data=data)
        shown = dict(event.data)
        if event.type == SECTION_COMPLETED:
            clip = Clip(section=shown["section"], artifact=Artifact(**shown["clip"]))
            # Signed by arithmetic alone: a thread would cost more than it saves.
            shown["clip"] = self._links.clip(event.job_id, clip).model_dump(mode="json")
        elif event.type == COMPLETED:
            shown["video"] = video_view(spec, Artifact(**shown["video"])).model_dump(mode="json")
        return EventView(
            job_id=event.job_id,
            sequence=event.sequence,
            type=event.type,
            at=utc(event.at),
            data=shown,
        )


def _encoded(event: EventView, retry: int | None = None) -> bytes:
    event_id = None if event.sequence is None else str(event.sequence)
    text = event.model_dump_json(exclude_none=True)
    return ServerSentEvent(text, event=event.type, id=event_id, retry=retry).encode()
