"""Following jobs: history, then live, no gap, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from redis import Redis

from service.contract import eventlog
from service.contract.connections import connect
from service.contract.eventlog import EventHub
from service.contract.events import PreviewEvent, StepEvent
from service.contract.job import Event, JobSpec
from service.contract.record import Record
from tests.support.jobs import Claimer, do_all, make_spec
from tests.support.lossy import LossyProxy
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


Item = Event | StepEvent | PreviewEvent


async def sequences(events: AsyncIterator[Item]) -> list[int]:
    return [event.sequence async for event in events if isinstance(event, Event)]


def all_of(record: Record, job_id: str) -> list[int]:
    return [event.sequence for event in eventlog.read(record.redis, job_id)]


@contextlib.asynccontextmanager
async def following_live(
    hub: EventHub, record: Record, spec: JobSpec
) -> AsyncIterator[AsyncIterator[Item]]:
    """Submit and follow a job, past its history, where events come from the hub's reader."""
    await asyncio.to_thread(record.submit, spec)
    async with hub.follow(spec.id, 1) as events:
        for change in (record.pause, record.resume):
            await asyncio.to_thread(change, spec.id)
            await anext(events)
        yield events


async def handed_out(hub: EventHub, record: Record) -> None:
    """Wait until the hub's reader has passed everything that happened so far."""
    async with following_live(hub, record, make_spec()):
        pass


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
    spec = make_spec(sections=4)
    missed = 1 + 3 * 4 + 1  # started; of each section started, sampled, completed; the end
    monkeypatch.setattr(eventlog, "QUEUE_LENGTH", missed - 2)

    async def scenario(hub: EventHub) -> None:
        async with following_live(hub, record, spec) as events:
            await asyncio.to_thread(do_all, record)
            await handed_out(hub, record)
            assert await sequences(events) == all_of(record, spec.id)[-missed:]

    in_hub(redis_url, scenario)


def test_a_follower_that_is_too_slow_again_ends_and_can_come_back(
    record: Record, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "QUEUE_LENGTH", 3)
    spec = make_spec(sections=4)

    async def scenario(hub: EventHub) -> None:
        async with following_live(hub, record, spec) as events:
            await asyncio.to_thread(do_all, record)
            await handed_out(hub, record)
            assert await sequences(events) == []
        async with hub.follow(spec.id, 3) as events:
            assert await sequences(events) == all_of(record, spec.id)[3:]

    in_hub(redis_url, scenario)


def test_entries_of_strangers_end_no_reader(record: Record, redis_url: str) -> None:
    spec = make_spec()

    async def scenario(hub: EventHub) -> None:
        async with following_live(hub, record, spec) as events:
            await handed_out(hub, record)
            record.redis.xadd(eventlog.FIREHOSE, {"junk": "1"})
            damaged: Any = {"job": spec.id, "sequence": "x", "type": "t", "at": "1", "data": "{}"}
            record.redis.xadd(eventlog.FIREHOSE, damaged)
            for junk in ("junk", "[]", '{"job_id": 1}'):
                record.redis.publish(eventlog.STEPS, junk)
            render = Claimer(record)
            await asyncio.to_thread(render.do_one)
            task = await asyncio.to_thread(render.must_claim)
            found = [await anext(events), await anext(events)]
            assert [e.type for e in found if isinstance(e, Event)] == ["started", "section.started"]
            reading = asyncio.ensure_future(anext(events))
            while not reading.done():
                await asyncio.to_thread(record.report_step, task, 4, 4)
                await asyncio.wait([reading], timeout=0.1)
            assert isinstance(reading.result(), StepEvent)

    in_hub(redis_url, scenario)


def test_a_connection_that_died_silently_is_replaced(
    valkey: Valkey, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "BLOCK_MS", 200)
    monkeypatch.setattr(eventlog, "READ_SECONDS", 0.5)
    spec = make_spec(sections=1)
    with LossyProxy(valkey.port) as proxy:

        async def scenario(hub: EventHub) -> None:
            async with following_live(hub, record, spec) as events:
                proxy.go_silent()
                await asyncio.to_thread(do_all, record)
                assert (await sequences(events))[-1] == record.get(spec.id).last_sequence

        in_hub(f"redis://127.0.0.1:{proxy.port}/0", scenario)


def test_a_hub_closes_at_any_moment_of_its_start(redis_url: str) -> None:
    """A cancellation that gets lost while a connection is made would leave a reader for ever."""

    async def scenario() -> None:
        for moment in range(60):
            async with asyncio.timeout(5), EventHub(redis_url):
                for _ in range(moment):
                    await asyncio.sleep(0)

    asyncio.run(scenario())


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
