"""The control: a video made by one plain RQ job with retries, as most services do it.

    python -m tests.faults.plain_rq URL

It tells its story in the same kind of stream, so the same checker reads it. A worker told to die
does so when its video is published and RQ has not yet heard of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Queue, Retry, SimpleWorker

from service.contract import events
from service.contract.connections import KEY_PREFIX, connect

QUEUE = "plain"
SECTIONS = 2


def make_video(url: str, job_id: str, marker: str) -> None:
    """The job: all sections, then the end.

    Args:
        url: Of the Redis server.
        job_id: Whose stream gets the events.
        marker: A file that tells a worker to die; dying removes it.
    """
    with connect(url) as redis:
        for section in range(SECTIONS):
            tell(redis, job_id, events.SECTION_SAMPLED, f'{{"section": {section}}}')
        tell(redis, job_id, events.COMPLETED, "{}")
    if Path(marker).exists():
        Path(marker).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def tell(redis: Redis, job_id: str, kind: str, data: str) -> None:
    """Append an event with the next number."""
    stream = f"{KEY_PREFIX}job:{job_id}:events"
    number = int(str(redis.xlen(stream))) + 1
    fields: dict[Any, Any] = {"type": kind, "at": str(int(time.time() * 1000)), "data": data}
    redis.xadd(stream, fields, id=f"{number}-0")


def accept(url: str, job_id: str, marker: Path) -> None:
    """Enqueue the job, to be tried again when its worker is lost."""
    with connect(url) as redis:
        tell(redis, job_id, events.QUEUED, "{}")
    with Redis.from_url(url) as connection:
        Queue(QUEUE, connection=connection).enqueue(
            make_video, url, job_id, str(marker), retry=Retry(max=3), job_timeout=5
        )


def main(url: str) -> None:
    """Work until the queue is empty."""
    with Redis.from_url(url) as connection:
        SimpleWorker([QUEUE], connection=connection).work(burst=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
