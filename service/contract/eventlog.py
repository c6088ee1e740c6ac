"""Reading what happened to jobs: one stream a job for good, one firehose of the latest.

A gateway has one `EventHub`: a single reader of the firehose and of what is published, whatever the
number of clients. A follower gets history from its job's stream, then live events; wherever a
sequence number is missing it goes back to the stream, so nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import redis.exceptions
from redis import Redis

from service.contract.connections import KEY_PREFIX, connect_reader
from service.contract.events import TERMINAL, PreviewEvent, StepEvent
from service.contract.job import Event

log = logging.getLogger(__name__)

T = TypeVar("T")

FIREHOSE = f"{KEY_PREFIX}events"
STEPS = f"{KEY_PREFIX}steps"
PREVIEWS = f"{KEY_PREFIX}previews"
QUEUE_LENGTH = 256
MOST_LOOKUPS = 8
BLOCK_MS = 10_000
READ_SECONDS = 15.0
"""Longer than a read blocks: only a dead connection takes it."""
_AWAY = (redis.exceptions.RedisError, OSError)

_NUDGE = Event(job_id="", sequence=0, type="", at=0)
"""Makes a follower look into its job's stream."""

Passing = StepEvent | PreviewEvent
"""What is published and not stored: whoever is not there misses it."""

_PASSING: dict[str, type[Passing]] = {STEPS: StepEvent, PREVIEWS: PreviewEvent}

Item = Event | Passing | None
"""What waits for a follower; None ends it."""


def read(client: Redis, job_id: str, after: int = 0) -> list[Event]:
    """All stored events of a job after a sequence number, in order."""
    return _stored(job_id, client.xrange(_stream(job_id), min=f"{after + 1}-0"))


def read_latest(client: Redis, job_id: str, count: int) -> list[Event]:
    """The last stored events of a job, in order."""
    return _stored(job_id, client.xrevrange(_stream(job_id), count=count))[::-1]


class EventHub:
    """Live events of all jobs for any number of followers; use it as an asynchronous context."""

    def __init__(self, url: str) -> None:
        self._client = connect_reader(url)
        self._followers: defaultdict[str, set[_Follower]] = defaultdict(set)
        self._reads = _SharedReads()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> EventHub:
        self._tasks = [
            asyncio.create_task(_forever(reader), name=reader.__name__)
            for reader in (self._read_firehose, self._read_passing)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reads.end()
        for followers in self._followers.values():
            for follower in followers:
                follower.put(None)
        await self._client.aclose()

    async def last(self, job_id: str) -> Event | None:
        """A job's latest stored event; None for a job that is not there."""

        async def ask() -> list[Event]:
            answer = await self._answer(lambda: self._client.xrevrange(_stream(job_id), count=1))
            return _stored(job_id, answer)

        found = await self._reads.get((job_id, "last"), ask)
        return found[0] if found else None

    @contextlib.asynccontextmanager
    async def follow(
        self, job_id: str, after: int
    ) -> AsyncIterator[AsyncIterator[Event | Passing]]:
        """Follow a job from after a sequence number to its terminal event.

        Iteration ends after the terminal event, when the hub closes, or when the follower was too
        slow for the second time; a client then comes back with the last sequence number it has.
        """
        async with self.batches(job_id, after) as batches:
            yield (item async for batch in batches for item in batch)

    @contextlib.asynccontextmanager
    async def batches(
        self, job_id: str, after: int
    ) -> AsyncIterator[AsyncIterator[list[Event | Passing]]]:
        """As `follow`, with all that is there at a time in one list."""
        follower = _Follower()
        self._followers[job_id].add(follower)
        try:
            yield self._events(job_id, after, follower)
        finally:
            self._followers[job_id].discard(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def _events(
        self, job_id: str, last: int, follower: _Follower
    ) -> AsyncIterator[list[Event | Passing]]:
        place = _Place(last, behind=True)
        while not place.ended:
            if place.behind:
                found = place.catch_up(await self._stored_after(job_id, place.last))
            else:
                found = place.take(await follower.waiting())
            if found:
                yield found

    async def _stored_after(self, job_id: str, last: int) -> list[Event]:
        """What is stored by now; not the answer to a question that was sent before."""

        async def ask() -> list[Event]:
            answer = await self._answer(
                lambda: self._client.xrange(_stream(job_id), min=f"{last + 1}-0")
            )
            return _stored(job_id, answer)

        return await self._reads.get((job_id, last), ask)

    async def _answer(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Of a read that does not block, on a new connection if the old ones are dead."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await ask()
        except TimeoutError:
            await self._client.connection_pool.disconnect(inuse_connections=False)
        async with asyncio.timeout(READ_SECONDS):
            return await ask()

    async def _read_firehose(self) -> None:
        newest = await self._answer(lambda: self._client.xrevrange(FIREHOSE, count=1))
        last = str(newest[0][0]) if newest else "0-0"
        # Whoever followed while the connection was down may have missed something.
        for followers in self._followers.values():
            for follower in followers:
                follower.put(_NUDGE)
        while True:
            async with asyncio.timeout(READ_SECONDS):
                answer: Any = await self._client.xread({FIREHOSE: last}, block=BLOCK_MS, count=500)
            for _, entries in answer or []:
                for entry, fields in entries:
                    last = entry
                    with _skipping(FIREHOSE):
                        self._hand_out(fields["job"], _event(fields["job"], fields))

    async def _read_passing(self) -> None:
        async with self._client.pubsub() as channel:
            await channel.subscribe(*_PASSING)
            while True:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=10)
                if message is not None:
                    with _skipping(message["channel"]):
                        self._pass_on(message["channel"], message["data"])

    def _pass_on(self, channel: str, data: str) -> None:
        item = _PASSING[channel].model_validate_json(data)
        self._hand_out(item.job_id, item)

    def _hand_out(self, job_id: str, item: Item) -> None:
        for follower in self._followers.get(job_id, ()):
            follower.put(item)


class _Follower:
    """A bounded queue. Full, it forgets all and looks into the stream; full again, it ends."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Item] = asyncio.Queue(QUEUE_LENGTH)
        self._overflowed = False

    def put(self, item: Item) -> None:
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(None if self._overflowed or item is None else _NUDGE)
            self._overflowed = True

    async def waiting(self) -> list[Item]:
        """All that waits; at least one."""
        found = [await self._queue.get()]
        while not self._queue.empty():
            found.append(self._queue.get_nowait())
        return found


@dataclass
class _Place:
    """How far a follower is in its job's events.

    Attributes:
        last: Sequence number of the last event it got.
        behind: It must look into the job's stream.
        ended: Nothing more comes.
    """

    last: int
    behind: bool = False
    ended: bool = False

    def catch_up(self, stored: list[Event]) -> list[Event | Passing]:
        """What the stream holds after `last`."""
        self.behind = False
        if stored:
            self.last, self.ended = stored[-1].sequence, stored[-1].type in TERMINAL
        return list(stored)

    def take(self, items: Iterable[Item]) -> list[Event | Passing]:
        """What of some items is next in turn."""
        found: list[Event | Passing] = []
        for item in items:
            if self.ended or item is None:
                self.ended = True
            elif isinstance(item, Passing):
                found.append(item)
            elif item is _NUDGE or item.sequence > self.last + 1:
                self.behind = True
            elif item.sequence == self.last + 1 and not self.behind:
                self.last, self.ended = item.sequence, item.type in TERMINAL
                found.append(item)
        return found


class _SharedReads:
    """Reads of Redis, some at a time; whoever asks for one that has not begun shares its answer.

    After an outage thousands of clients ask for the same few streams at once. A read that has
    begun is not joined: its answer may be older than what the one who asks must not miss.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MOST_LOOKUPS)
        self._not_begun: dict[Hashable, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to `ask`, which is the same for all who ask with this key."""
        task: asyncio.Task[T] | None = self._not_begun.get(key)
        if task is None:
            task = self._not_begun[key] = asyncio.create_task(self._read(key, ask))
            self._tasks.add(task)
            task.add_done_callback(self._done)
        # Whoever leaves must not take the answer away from the others.
        return await asyncio.shield(task)

    async def end(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            await self._places.acquire()
        finally:
            del self._not_begun[key]
        try:
            return await ask()
        finally:
            self._places.release()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have left, and then nobody else looks


@contextlib.contextmanager
def _skipping(source: str) -> Iterator[None]:
    """Pass over an entry nobody of ours wrote: one reader serves all followers and must not end."""
    try:
        yield
    except (KeyError, ValueError, AttributeError) as error:
        log.warning("skipped an unreadable entry of %s: %s", source, type(error).__name__)


async def _forever(reader: Any) -> None:
    """Run a reader again whenever its connection breaks or the server refuses it for a while."""
    pause = 0.1
    while True:
        try:
            await reader()
        except _AWAY as error:
            log.warning("%s: %s, again in %.1f s", reader.__name__, type(error).__name__, pause)
            await asyncio.sleep(pause)
            pause = min(2.0, 2 * pause)


def _stream(job_id: str) -> str:
    return f"{KEY_PREFIX}job:{job_id}:events"


def _stored(job_id: str, answer: Any) -> list[Event]:
    """Entries of a job's stream, whose ids are ``{sequence}-0``."""
    return [
        _event(job_id, {**fields, "sequence": entry.partition("-")[0]})
        for entry, fields in answer or []
    ]


def _event(job_id: str, fields: Mapping[str, str]) -> Event:
    return Event(
        job_id=job_id,
        sequence=int(fields["sequence"]),
        type=fields["type"],
        at=int(fields["at"]),
        # Lua's empty table may arrive as an empty list.
        data=json.loads(fields["data"]) or {},
    )
