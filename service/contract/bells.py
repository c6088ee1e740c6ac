"""RQ rings the bell: "lane L may have work for preset P", and nothing more.

A bell holds no truth. A lost one is rung again by the sweeper, a doubled one finds nothing to
claim. Bells are JSON naming one allow-listed function, so whoever can write to Redis still cannot
make a worker call anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.worker_registration import get_keys

from service.contract.connections import connect
from service.contract.job import Lane
from service.contract.record import Ring

ANSWER = "worker.tasks.answer"
"""The one function a bell may call, with the lane's name."""

MOST_WAITING = 16
"""Bells that wait in one queue are enough at this number: each makes a worker look for a task."""


class ForeignBell(Exception):  # noqa: N818 - reads as what it is at the raise site
    """A queue entry that names a function no bell calls."""


class BellJob(RqJob):
    """A queue entry that can call one function only."""

    @property
    def func(self) -> Callable[..., Any]:
        """The function to call.

        Raises:
            ForeignBell: The entry names another function, or a method of something.
        """
        if self.func_name != ANSWER or self.instance is not None:
            raise ForeignBell("the queue entry does not name the bell's function")
        function: Callable[..., Any] = super().func
        return function

    # An entry can also name functions to call back and addresses to tell: none of it is heard.

    @property
    def success_callback(self) -> None:
        """None, whatever the entry says."""

    @property
    def failure_callback(self) -> None:
        """None, whatever the entry says."""

    @property
    def stopped_callback(self) -> None:
        """None, whatever the entry says."""

    def send_webhooks(self, status: str, *, exc_string: str | None = None) -> None:
        """Tells nobody, whatever the entry says."""


def queue_name(lane: Lane, preset: str) -> str:
    """The queue of a lane's bells for a preset."""
    return f"{lane}.{preset}"


class Bells:
    """Rings bells."""

    def __init__(self, redis_url: str, *, hard_maximum_seconds: int = 1800) -> None:
        """Open a connection of its own: RQ needs undecoded answers.

        Args:
            redis_url: The server of the job record.
            hard_maximum_seconds: The longest a task may take; RQ ends it then.
        """
        self._redis = connect(redis_url, decode=False)
        self._seconds = hard_maximum_seconds

    def ring(self, lanes: Ring) -> None:
        """Ring for each (lane, preset), unless plenty of bells wait there already."""
        for lane, preset in dict.fromkeys(lanes):
            queue = self.queue(lane, preset)
            if queue.count < MOST_WAITING:
                queue.enqueue_call(
                    ANSWER,
                    args=(str(lane),),
                    timeout=self._seconds,
                    result_ttl=0,
                    failure_ttl=3600,
                )

    def queue(self, lane: Lane, preset: str) -> Queue:
        """The RQ queue of a lane and preset."""
        return Queue(
            queue_name(lane, preset),
            connection=self._redis,
            serializer=JSONSerializer,
            job_class=BellJob,
        )

    def queues(self, lane: Lane, presets: Iterable[str]) -> list[Queue]:
        """The RQ queues a worker of a lane listens to."""
        return [self.queue(lane, preset) for preset in presets]

    def listeners(self, lane: Lane, preset: str) -> set[str]:
        """Keys of the workers that listen for a lane and preset, and live."""
        names = sorted(get_keys(self.queue(lane, preset)))
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.exists(name)
            alive = pipeline.execute()
        return {name for name, lives in zip(names, alive, strict=True) if lives}

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()
