"""Server-sent events from bytes (WHATWG HTML §9.2.6), as far as the gateway uses them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r(?!$)")
"""Lines end here only; `str.splitlines` would also break a text at U+2028 or U+0085."""


@dataclass(frozen=True)
class ServerSentEvent:
    """One dispatched event. ``id`` is None where the event itself carried none."""

    name: str
    data: str
    id: str | None


class EventReader:
    """Finds the events in a stream that arrives in pieces; an unfinished last one is dropped."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._name = "message"
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """The events that are complete with the next piece."""
        *lines, self._rest = _LINE_END.split(self._rest + self._text.decode(piece))
        for line in lines:
            if line:
                self._take(line)
                continue
            if self._data:
                yield ServerSentEvent(self._name, "\n".join(self._data), self._id)
            self._start()

    def _start(self) -> None:
        self._name, self._id, self._data = "message", None, []

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self._id = value


def parse_events(pieces: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """The events of a whole stream."""
    reader = EventReader()
    for piece in pieces:
        yield from reader.feed(piece)
