"""What the gateway carries on this machine: submissions, polls, event streams, and cancels.

    python -m bench load --json

* `POST /jobs` (a picture decoded, a plan made, the picture stored, the record written) beside a
  bare FastAPI and redis-py endpoint that stores the same body, both on one server that syncs every
  write, in turns.
* Polls of a job that has not changed, answered 304.
* Clients of event streams on one gateway process while jobs are worked on; half-way all hang up at
  once and come back with their last id. Counted: what each got, in which order, how late.
* A cancel of a job that is being sampled by real workers: denoising steps until it stopped.

Stops by itself. The load comes from this process, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from PIL import Image

from bench._common import emit
from bench._listeners import Crowd, Listener
from bench._wire import Line, Load, put_under_load, request
from bench.long_job import peak_mib
from service.client import Client
from service.contract.connections import connect
from service.contract.events import CANCELLED, CANCELLING
from service.contract.job import Lane
from service.contract.record import Record, Task, WorkerIdentity
from service.contract.storage import open_storage
from service.up.stack import Stack
from tests.support.lanes import HandWorker
from tests.support.valkey import Valkey, free_port

ROUNDS = 3
LINES = 16
JOBS = 20
SECTIONS = 10
"""Of each job that is listened to."""

EVENTS_OF_A_JOB = 3 + 3 * SECTIONS
"""queued, started, completed; of each section started, sampled, completed."""

TASKS_OF_A_JOB = 2 + 2 * SECTIONS


@contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[int]:
    """A server process that listens; its id."""
    server = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(lambda: _listens(port) or server.poll() is not None)
        if server.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with {server.returncode}")
        yield server.pid
    finally:
        server.terminate()
        server.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a part of the measurement did not come up")
        time.sleep(0.02)


def submission(seconds: float = 1.0) -> bytes:
    """A `POST /jobs` as bytes: a picture of 256 x 256 and a prompt."""
    picture = io.BytesIO()
    Image.radial_gradient("L").resize((256, 256)).convert("RGB").save(picture, "JPEG")
    form = {"prompt": "a red ball slides right", "seconds": str(seconds), "order": "forward"}
    sent = httpx.Request("POST", "http://x/jobs", data=form, files={"image": picture.getvalue()})
    return request("POST", "/jobs", {"Content-Type": sent.headers["content-type"]}, sent.read())


async def measure_submissions(gateway: int, bare: int, times: int) -> dict[str, object]:
    """Both endpoints in turns."""
    body = submission()
    loads: dict[str, list[Load]] = {"gateway": [], "bare": []}
    for _ in range(ROUNDS):
        loads["gateway"].append(await put_under_load(gateway, body, times, LINES))
        loads["bare"].append(await put_under_load(bare, body, 4 * times, LINES))
    ratios = [
        (len(ours.took) / ours.seconds) / (len(theirs.took) / theirs.seconds)
        for ours, theirs in zip(loads["gateway"], loads["bare"], strict=True)
    ]
    shown = {name: _joined(found).told() for name, found in loads.items()}
    return {**shown, "throughput_ratio": round(median(ratios), 3), "body_bytes": len(body)}


def _joined(loads: Sequence[Load]) -> Load:
    whole = Load()
    for load in loads:
        whole.took += load.took
        whole.statuses += load.statuses
        whole.seconds += load.seconds
    return whole


async def measure_polls(port: int, job_id: str, times: int) -> dict[str, object]:
    """Polls with the tag of what is known already."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        tag = (await client.get(f"/jobs/{job_id}")).headers["etag"]
    poll = request("GET", f"/jobs/{job_id}", {"If-None-Match": tag})
    return (await put_under_load(port, poll, times, LINES)).told()


class Working:
    """Does the work of all jobs, without models, at a pace; notes when each event came about."""

    def __init__(self, record: Record, storage_url: str, job_ids: Sequence[str]) -> None:
        self._worker = HandWorker(record, open_storage(storage_url))
        self._record = record
        self.emitted: dict[str, dict[int, float]] = {job_id: {} for job_id in job_ids}
        self._last = dict.fromkeys(job_ids, 1)

    def do(self, tasks: int, per_second: float) -> None:
        """The next tasks of either lane, whatever the record hands out."""
        for number in range(tasks):
            began = time.monotonic()
            lanes = [Lane.RENDER, Lane.DELIVER][:: 1 if number % 2 else -1]
            task = self._noted(lambda lanes=lanes: self._claim(lanes))  # type: ignore[misc]
            self._noted(lambda task=task: self._commit(task))  # type: ignore[misc]
            time.sleep(max(0.0, began + 1 / per_second - time.monotonic()))

    def _claim(self, lanes: Sequence[Lane]) -> Task:
        for lane in lanes:
            identity = WorkerIdentity(f"hand-{lane}", lane, {"tiny": "hand-made"})
            task = self._record.claim(identity, uuid.uuid4().hex)
            if task is not None:
                return task
        raise RuntimeError("there is nothing to do")

    def _commit(self, task: Task) -> Task:
        self._worker.commit(task)
        return task

    def _noted(self, action: Callable[[], Task]) -> Task:
        at = time.time()
        task = action()
        last = self._record.get(task.job_id).last_sequence
        for number in range(self._last[task.job_id] + 1, last + 1):
            self.emitted[task.job_id][number] = at
        self._last[task.job_id] = last
        return task


async def measure_streams(
    port: int, record: Record, storage_url: str, clients: int, per_second: float
) -> dict[str, object]:
    """Listen to jobs through a reconnection of everybody."""
    body, job_ids = submission(1.2 * SECTIONS), []
    for _ in range(JOBS):
        answer = await ask_once(port, body)
        job_ids.append(answer["id"])
    working = Working(record, storage_url, job_ids)
    listeners = [Listener(job_ids[number % JOBS]) for number in range(clients)]
    crowd = Crowd(listeners, working.emitted)
    listening = crowd.follow(port, EVENTS_OF_A_JOB)
    connecting = await listening.connected
    half = JOBS * TASKS_OF_A_JOB // 2
    await asyncio.to_thread(working.do, half, per_second)
    crowd.hang_up()
    await listening.ended
    # The work goes on while everybody comes back.
    rest = asyncio.create_task(asyncio.to_thread(working.do, half, per_second))
    listening = crowd.follow(port, EVENTS_OF_A_JOB)
    storm = await listening.connected
    await asyncio.gather(listening.ended, rest)
    return {
        **crowd.told(EVENTS_OF_A_JOB),
        "jobs": JOBS,
        "connecting_seconds": round(connecting, 2),
        "reconnecting_seconds": round(storm, 2),
    }


async def ask_once(port: int, body: bytes) -> dict[str, Any]:
    """One submission; the job."""
    line = await Line.open(port)
    status, _, answer = await line.ask(body)
    line.close()
    if status != httpx.codes.ACCEPTED:
        raise RuntimeError(f"a submission was answered {status}: {answer.decode()}")
    found: dict[str, Any] = json.loads(answer)
    return found


def measure_cancels(times: int) -> dict[str, object]:
    """Steps and milliseconds from a cancel to the end, with the real workers of `tiny`."""
    steps, milliseconds = [], []
    with (
        tempfile.TemporaryDirectory(prefix="framepack-bench-") as folder,
        Stack(Path(folder)) as stack,
        Client(stack.url, api_key=stack.api_key) as client,
    ):
        picture = io.BytesIO()
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(picture, "PNG")
        for number in range(times):
            job = client.submit(picture.getvalue(), "a red ball", seconds=5, steps=40, seed=number)
            _wait(lambda job=job: (client.get(job.id).progress.step or 0) > 5)  # type: ignore[misc]
            at = client.cancel(job.id).progress
            for _ in client.events(job.id):
                pass
            end = client.get(job.id).progress
            steps.append((end.step or 0) - (at.step or 0) if end.section == at.section else None)
            times_of = {e.type: e.at for e in client.events(job.id, after=0) if e.at is not None}
            took = times_of[CANCELLED] - times_of[CANCELLING]
            milliseconds.append(round(1e3 * took.total_seconds()))
    return {"cancels": times, "steps": steps, "milliseconds": milliseconds}


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framepack-bench-")))
        (folder / "valkey").mkdir()
        server = stack.enter_context(Valkey(folder / "valkey"))
        gateway, bare = free_port(), free_port()
        storage_url = f"file://{folder / 'storage'}"
        pid = stack.enter_context(
            running(
                ["-m", "service", "gateway", "--port", str(gateway)],
                gateway,
                FRAMEPACK_AUTH="open",
                FRAMEPACK_REDIS_URL=server.url,
                FRAMEPACK_STORAGE_URL=storage_url,
                FRAMEPACK_SIGNING_SECRET="of this measurement",
                FRAMEPACK_PUBLIC_URL=f"http://127.0.0.1:{gateway}",
            )
        )
        stack.enter_context(running(["-m", "bench._bare", server.url, str(bare)], bare))
        submissions = asyncio.run(measure_submissions(gateway, bare, options.submissions))
        job = asyncio.run(ask_once(gateway, submission()))
        polls = asyncio.run(measure_polls(gateway, job["id"], options.polls))
        server.empty()
        client = stack.enter_context(connect(server.url))
        streams = asyncio.run(
            measure_streams(gateway, Record(client), storage_url, options.clients, options.pace)
        )
        streams["gateway_peak_mib"] = peak_mib({"gateway": pid})["gateway"]
    result: dict[str, object] = {"submissions": submissions, "polls": polls, "streams": streams}
    return {**result, "cancel": measure_cancels(options.cancels)}


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__)
    parser.add_argument("--submissions", type=int, default=300, help="a round; of three")
    parser.add_argument("--polls", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=2000, help="of event streams")
    parser.add_argument("--pace", type=float, default=10.0, help="tasks done in a second")
    parser.add_argument("--cancels", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    emit("load", vars(options), measure(options), as_json=options.json)
    return 0
