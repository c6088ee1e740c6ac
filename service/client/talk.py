"""Calls without a network, so that one text of a call serves the blocking and the async client.

A call is a generator: it yields what it wants done (`Ask`, `Listen`, `More`, `Rest`) and is sent
what came of it; what it yields in a `Tell` is for whoever made the call. Whether doing blocks or
awaits is all that the two clients decide.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """Send a request, read the whole answer. Comes back as an `httpx.Response`.

    Attributes:
        method: Of HTTP.
        url: A path of the gateway; an absolute URL is a signed link and gets no API key.
        headers: Besides the client's own.
        content: Other arguments of `httpx.Client.build_request`.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signed_link(self) -> bool:
        """Whether the URL speaks for itself."""
        return "://" in self.url


@dataclass(frozen=True)
class Listen(Ask):
    """Send a request, leave the answer's body open. Comes back as an `httpx.Response`."""


@dataclass(frozen=True)
class More:
    """Read on in the open body. Comes back as bytes, or None at its end."""


@dataclass(frozen=True)
class Rest:
    """Wait. Comes back as None."""

    seconds: float


@dataclass(frozen=True)
class Tell:
    """Hand a value to the caller. Comes back as None."""

    value: Any


Wish = Ask | More | Rest | Tell
Call = Generator[Wish, Any, T]


class Talk(Generic[T]):
    """A call under way.

    Attributes:
        result: What the call returned, once `wishes` has ended.
    """

    result: T

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._answer: Any = None
        self._error: httpx.TransportError | None = None

    def wishes(self) -> Generator[Wish]:
        """What the call wants done, one after the other."""
        try:
            while True:
                answer, self._answer = self._answer, None
                error, self._error = self._error, None
                yield self._call.send(answer) if error is None else self._call.throw(error)
        except StopIteration as finished:
            self.result = finished.value
        finally:
            self._call.close()

    @contextmanager
    def doing(self) -> Iterator[None]:
        """Around an attempt to do a wish: a connection that fails is told to the call."""
        try:
            yield
        except httpx.TransportError as error:
            self._error = error

    def done(self, answer: Any) -> None:
        """A wish was done; this came of it."""
        self._answer = answer
