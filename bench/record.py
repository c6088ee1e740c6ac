"""What one Redis carries: submits, tasks and a census, on a server that syncs every write.

    python -m bench.record --jobs 300 --clients 4

Each task is a claim, a renewal, a reported step and a commit, as a worker does them, without the
work in between; `clients` threads do them at once. They share one Python, so what they get done in
a second is a floor; the server's own milliseconds of CPU, which other work on the machine hardly
changes, say what it could carry.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from redis import Redis

from service.contract.census import take_census
from service.contract.connections import connect
from service.contract.job import Lane
from service.contract.record import Record, WorkerIdentity
from tests.support.jobs import make_artifact, make_spec
from tests.support.valkey import Valkey

SECTIONS = 5


def work(url: str, lane: Lane) -> int:
    """Do tasks of a lane until there are none for a while; returns how many."""
    with connect(url) as client:
        record = Record(client)
        worker = WorkerIdentity(uuid.uuid4().hex, lane, {"tiny": "engine"})
        done, last = 0, time.monotonic()
        while time.monotonic() - last < 0.5:
            task = record.claim(worker, uuid.uuid4().hex)
            if task is None:
                time.sleep(0.005)
                continue
            record.renew(task)
            if task.kind == "sample":
                record.report_step(task, 1, 25)
            record.commit(task, make_artifact(task))
            done, last = done + 1, time.monotonic()
        return done


def submit(url: str, jobs: int) -> None:
    """Submit jobs one after the other."""
    with connect(url) as client:
        record = Record(client)
        for number in range(jobs):
            record.submit(make_spec(tenant=f"tenant-{number % 20}", sections=SECTIONS))


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def server_seconds(client: Redis) -> float:
    """CPU time that the server has used."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def measure(url: str, jobs: int, clients: int) -> dict[str, float]:
    """All figures."""
    with ThreadPoolExecutor(clients) as pool, connect(url) as client:
        each, before = jobs // clients, server_seconds(client)
        submitting = timed(lambda: list(pool.map(lambda _: submit(url, each), range(clients))))
        submitted = server_seconds(client)
        census = min(timed(lambda: take_census(client)) for _ in range(3))
        memory = int(client.info("memory")["used_memory"])
        lanes = [lane for lane in Lane for _ in range(clients)]
        with ThreadPoolExecutor(len(lanes)) as workers:
            began, idle = time.perf_counter(), server_seconds(client)
            tasks = sum(workers.map(lambda lane: work(url, lane), lanes))
            working = time.perf_counter() - began - 0.5
        worked = server_seconds(client) - idle
    return {
        "open_jobs": each * clients,
        "submits_per_second": round(each * clients / submitting),
        "tasks_per_second": round(tasks / working),
        "server_ms_per_submit": round(1e3 * (submitted - before) / (each * clients), 2),
        "server_ms_per_task": round(1e3 * worked / tasks, 2),
        "census_ms": round(1e3 * census, 1),
        "memory_mib": round(memory / 2**20, 1),
    }


def main() -> None:
    """Measure on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Valkey(Path(folder)) as server:
        print(json.dumps(measure(server.url, options.jobs, options.clients)))


if __name__ == "__main__":
    main()
