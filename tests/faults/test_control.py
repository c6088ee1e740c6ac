"""The control: what the service must never do, plain RQ does, and the checker says so."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from redis import Redis
from rq import Queue
from rq.registry import StartedJobRegistry

from service.contract import eventlog
from service.contract.connections import connect
from tests.faults import plain_rq
from tests.faults.checker import of_events
from tests.support.valkey import Valkey

JOB = "0" * 32
PAST_EVERY_TIMEOUT_SECONDS = 120


def test_a_plain_rq_job_with_retries_is_caught_ending_twice(tmp_path: Path) -> None:
    marker = tmp_path / "die"
    marker.touch()
    with Valkey(tmp_path) as server, connect(server.url) as redis:
        plain_rq.accept(server.url, JOB, marker)
        assert _work(server.url) == -signal.SIGKILL
        assert list(of_events(JOB, eventlog.read(redis, JOB))) == []

        _notice_the_lost_worker(server.url)
        assert _work(server.url) == 0
        kinds = [finding.kind for finding in of_events(JOB, eventlog.read(redis, JOB))]
    assert kinds.count("double") == 1
    assert kinds.count("redone_sections") == plain_rq.SECTIONS


def _work(url: str) -> int:
    command = [sys.executable, "-m", "tests.faults.plain_rq", url]
    return subprocess.run(command, check=False, timeout=120, stderr=subprocess.DEVNULL).returncode


def _notice_the_lost_worker(url: str) -> None:
    """What RQ's maintenance does by itself a minute after the job's timeout."""
    with Redis.from_url(url) as connection:
        registry = StartedJobRegistry(queue=Queue(plain_rq.QUEUE, connection=connection))
        registry.cleanup(int(time.time()) + PAST_EVERY_TIMEOUT_SECONDS)
