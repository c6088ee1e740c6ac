"""Following jobs: history, then live, no gap, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from redis import Redis

from service.contract import eventlog
from service.contract.connections import connect
from service.contract.eventlog import EventHub
from service.contract.events import StepEvent
from service.contract.job import Event
from service.contract.record import Record
from tests.support.jobs import Claimer, do_all, make_spec
from tests.support.valkey import Valkey

SECONDS = 15


@pytest.fixture
def record(redis: Redis) -> Record:
    return Record(redis)


def in_hub(url: str, scenario: Callable[[EventHub], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with EventHub(url) as hub, asyncio.timeout(SECONDS):
            await scenario(hub)

    asyncio.run(run())


async def sequences(events: AsyncIterator[Event | StepEvent]) -> list[int]:
    return [event.sequence async for event in events if isinstance(event, Event)]


def all_of(record: Record, job_id: str) -> list[int]:
    return [event.sequence for event in eventlog.read(record.redis, job_id)]


def test_history_comes_first_and_the_end_ends_it(record: Record, redis_url: str) -> None:
    spec = make_spec()
    record.submit(spec)
    do_all(record)

    async def scenario(hub: EventHub) -> None:
        async with hub.follow(spec.id, 0) as events:
            assert await sequences(events) == all_of(record, spec.id)
        async with hub.follow(spec.id, 4) as events:
            assert await sequences(events) == all_of(record, spec.id)[4:]

    in_hub(redis_url, scenario)


def test_live_events_follow_without_gap_or_double(record: Record, redis_url: str) -> None:
    specs = [make_spec(sections=3) for _ in range(4)]

    async def scenario(hub: EventHub) -> None:
        for spec in specs:
            await asyncio.to_thread(record.submit, spec)
        work = asyncio.create_task(asyncio.to_thread(do_all, record))

        async def follow(job_id: str) -> list[int]:
            async with hub.follow(job_id, 0) as events:
                return await sequences(events)

        found = await asyncio.gather(*(follow(spec.id) for spec in specs for _ in range(5)))
        await work
        expected = [all_of(record, spec.id) for spec in specs for _ in range(5)]
        assert found == expected

    in_hub(redis_url, scenario)


def test_steps_pass_by(record: Record, redis_url: str) -> None:
    spec = make_spec()
    record.submit(spec)
    render = Claimer(record)
    render.do_one()
    task = render.must_claim()

    async def scenario(hub: EventHub) -> None:
        async with hub.follow(spec.id, record.get(spec.id).last_sequence) as events:
            reading = asyncio.ensure_future(anext(events))
            while not reading.done():
                await asyncio.to_thread(record.report_step, task, 4, 4)
                await asyncio.wait([reading], timeout=0.1)
            step = reading.result()
            assert isinstance(step, StepEvent)
            assert (step.section, step.step, step.total_steps) == (0, 4, 4)

    in_hub(redis_url, scenario)


def test_a_follower_that_was_too_slow_catches_up(
    record: Record, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "QUEUE_LENGTH", 2)
    spec = make_spec(sections=4)

    async def scenario(hub: EventHub) -> None:
        await asyncio.to_thread(record.submit, spec)
        async with hub.follow(spec.id, 0) as events:
            first = await anext(events)
            assert isinstance(first, Event)
            await asyncio.to_thread(do_all, record)
            await asyncio.sleep(0.3)
            rest = await sequences(events)
        # Too slow once: it goes back to the stream. Too slow again: it is closed, and comes back.
        seen = [first.sequence, *rest]
        assert seen == all_of(record, spec.id)[: len(seen)]

    in_hub(redis_url, scenario)


def test_an_outage_of_the_server_loses_nothing(valkey: Valkey, record: Record) -> None:
    spec = make_spec(sections=2)

    async def scenario(hub: EventHub) -> None:
        await asyncio.to_thread(record.submit, spec)
        async with hub.follow(spec.id, 0) as events:
            assert await anext(events)
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start)
            with connect(valkey.url) as client:
                await asyncio.to_thread(do_all, Record(client))
            assert [1, *await sequences(events)] == all_of(record, spec.id)

    in_hub(valkey.url, scenario)
