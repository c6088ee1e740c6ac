"""The RQ side: real queues, a real listener, one bell at a time."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from service.contract.bells import ANSWER, Bells
from service.contract.job import Lane
from worker import tasks
from worker.drain import Drain
from worker.interruptions import TaskOverdue
from worker.listener import Listener, listen


class Answers:
    """What bells set off here."""

    def __init__(self) -> None:
        self.count = 0
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        self.count += 1
        self.then()


@pytest.fixture
def answers() -> Iterator[Answers]:
    answers = Answers()
    tasks.answers(Lane.RENDER, answers)
    yield answers
    tasks.answers(Lane.RENDER, lambda: None)


@pytest.fixture
def bells(redis_url: str) -> Iterator[Bells]:
    bells = Bells(redis_url, hard_maximum_seconds=1)
    yield bells
    bells.close()


@pytest.fixture
def drain() -> Drain:
    return Drain()


@pytest.fixture
def listener(bells: Bells, drain: Drain) -> Iterator[Listener]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Listener(bells.queues(Lane.RENDER, ["tiny", "other"]), "render-1", drain)
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_every_bell_is_answered_once(bells: Bells, listener: Listener, answers: Answers) -> None:
    bells.ring([(Lane.RENDER, "tiny"), (Lane.RENDER, "other"), (Lane.DELIVER, "tiny")])
    listener.work(burst=True, logging_level="ERROR")
    assert answers.count == 2


def test_a_bell_for_another_lane_means_nothing(
    bells: Bells, listener: Listener, answers: Answers
) -> None:
    queue = bells.queue(Lane.RENDER, "tiny")
    queue.enqueue_call(ANSWER, args=("elsewhere",), result_ttl=0)
    listener.work(burst=True, logging_level="ERROR")
    assert answers.count == 0
    assert queue.failed_job_registry.count == 0


@pytest.mark.parametrize("function", ["os.system", "worker.tasks.answers", "builtins.eval"])
def test_an_entry_can_name_no_other_function(
    bells: Bells, listener: Listener, answers: Answers, tmp_path: Path, function: str
) -> None:
    witness = tmp_path / "witness"
    queue = bells.queue(Lane.RENDER, "tiny")
    # Not a BellJob: whoever writes to the server writes what he likes.
    foreign = Queue(queue.name, connection=queue.connection, serializer=JSONSerializer)
    foreign.enqueue_call(function, args=(f"touch {witness}",))
    bells.ring([(Lane.RENDER, "other")])
    listener.work(burst=True, logging_level="CRITICAL")
    assert not witness.exists()
    assert queue.failed_job_registry.count == 1
    assert answers.count == 1


def test_an_entry_can_call_nothing_back(
    bells: Bells, listener: Listener, answers: Answers, redis: Redis
) -> None:
    queue = bells.queue(Lane.RENDER, "tiny")
    bells.ring([(Lane.RENDER, "tiny")])
    (entry,) = queue.job_ids
    called = "tests.worker.test_listener.never"
    key = RqJob.key_for(entry)
    redis.hset(key, "success_callback_name", called)
    redis.hset(key, "failure_callback_name", called)
    listener.work(burst=True, logging_level="CRITICAL")
    assert answers.count == 1
    assert called_back == []


called_back: list[Any] = []


def never(*arguments: Any) -> None:
    called_back.append(arguments)


def test_an_entry_that_cannot_be_read_ends_no_worker(
    bells: Bells, drain: Drain, listener: Listener, answers: Answers, redis: Redis
) -> None:
    bells.ring([(Lane.RENDER, "tiny")])
    (entry,) = bells.queue(Lane.RENDER, "tiny").job_ids
    redis.hset(RqJob.key_for(entry), "created_at", json.dumps({"not": "a date"}))
    answers.then = drain.request
    made: list[Listener] = []

    def make() -> Listener:
        if made:  # the first one fell over the entry, which RQ still holds as being dequeued
            bells.ring([(Lane.RENDER, "tiny")])
        queues = bells.queues(Lane.RENDER, ["tiny"])
        made.append(Listener(queues, f"render-{len(made)}", drain))
        return made[-1]

    listen(make, drain)
    assert answers.count == 1
    assert len(made) == 2


def test_a_task_is_interrupted_at_its_hard_maximum(
    bells: Bells, listener: Listener, answers: Answers
) -> None:
    ended: list[float] = []

    def endless() -> None:
        began = time.monotonic()
        with pytest.raises(TaskOverdue):
            time.sleep(20)
        ended.append(time.monotonic() - began)

    answers.then = endless
    bells.ring([(Lane.RENDER, "tiny")])
    listener.work(burst=True, logging_level="ERROR")
    assert len(ended) == 1
    assert ended[0] < 5


def test_sigterm_ends_the_waiting(bells: Bells, drain: Drain, listener: Listener) -> None:
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        began = time.monotonic()
        listener.work(logging_level="ERROR")
        assert time.monotonic() - began < 5
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert drain.requested


def test_sigterm_during_a_task_interrupts_nothing(
    bells: Bells, drain: Drain, listener: Listener, answers: Answers
) -> None:
    ended: list[bool] = []

    def work() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        ended.append(drain.requested)

    answers.then = work
    bells.ring([(Lane.RENDER, "tiny"), (Lane.RENDER, "other")])
    listener.work(logging_level="ERROR")
    assert ended == [True]
    assert answers.count == 1


def test_a_name_is_free_again_for_nobody(bells: Bells, drain: Drain, listener: Listener) -> None:
    """Why names must be unique: a dead worker's stays taken until its key expires."""
    listener.register_birth()  # type: ignore[no-untyped-call]
    twin = Listener(bells.queues(Lane.RENDER, ["tiny"]), listener.name, drain)
    with pytest.raises(ValueError, match="active worker named"):
        twin.register_birth()  # type: ignore[no-untyped-call]
