"""Random faults against the whole service while clients use it; see `python -m tests.faults -h`.

Clients submit jobs over HTTP and hear their events to the end, however often the connection breaks;
a chance generator kills, freezes, cuts off and sets clocks. Whoever dies is replaced, as a
supervisor would. The clocks that jump are the workers' wall clocks, no further than the storage
accepts their signatures; the Redis server's and the gateway's are the machine's.
"""

from __future__ import annotations

import hashlib
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.client.client import Client
from service.client.errors import RequestRefused, ServiceUnavailable
from tests.faults.ledger import Ledger
from tests.faults.stack import LEASE_SECONDS, ServiceStack, WorkerProcess
from tests.support.clock import set_ahead
from tests.support.faulty_store import Fault
from tests.support.fleet import picture

REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": "a red ball", "seconds": 2.4, "steps": 12, "seed": 1},
    {"prompt": "a blue ring", "seconds": 3.6, "steps": 8, "seed": 2, "order": "forward"},
    {"prompt": "a cyan square", "seconds": 1.2, "steps": 16, "seed": 3},
)
"""Two, three and one section."""

SECONDS_BETWEEN_JOBS = 3.0
SECONDS_BETWEEN_FAULTS = 5.0
SECONDS_TO_END = 240.0
MOST_OPEN = 8
CANCELLED_SHARE = 0.1
SECONDS_BETWEEN_LOOKS = 0.3
MOST_SECONDS_AHEAD = 600.0
"""Or behind. S3 refuses signatures that are older or newer than 15 minutes."""


@dataclass(frozen=True)
class Chaos:
    """How long, and which chances."""

    seconds: float
    seed: int


class Run:
    """One run against a stack, told to a ledger."""

    def __init__(self, chaos: Chaos, stack: ServiceStack, ledger: Ledger) -> None:
        self.chaos, self.stack, self.ledger = chaos, stack, ledger
        self._users: list[threading.Thread] = []
        self._open: set[str] = set()
        self._over = threading.Event()

    def __call__(self) -> None:
        """Undisturbed videos first, then faults, then as long as the rest needs.

        Raises:
            TimeoutError: A job has not ended long after the last fault; the ledger tells which.
        """
        for number in range(len(REQUESTS)):
            job, digest = self._make(number, cancelled_after=None)
            self.ledger.note("reference", request=number, job=job, sha256=digest)
        breaker = threading.Thread(target=self._break_things)
        thief = threading.Thread(target=self._look_for_leaks)
        breaker.start()
        thief.start()
        try:
            self._use_the_service()
            breaker.join()
            deadline = time.monotonic() + SECONDS_TO_END
            for user in self._users:
                user.join(max(0.0, deadline - time.monotonic()))
                if user.is_alive():
                    raise TimeoutError("a job has not ended long after the last fault")
        finally:
            self._over.set()
            thief.join()

    def _use_the_service(self) -> None:
        rng = random.Random(f"{self.chaos.seed} clients")
        end = time.monotonic() + self.chaos.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, rng.expovariate(1 / SECONDS_BETWEEN_JOBS)))
            if sum(user.is_alive() for user in self._users) < MOST_OPEN:
                number = rng.randrange(len(REQUESTS))
                cancelled = rng.uniform(0, 6) if rng.random() < CANCELLED_SHARE else None
                user = threading.Thread(target=self._make, args=(number, cancelled), daemon=True)
                self._users.append(user)
                user.start()

    def _make(self, number: int, cancelled_after: float | None) -> tuple[str, str | None]:
        """A video, by somebody who may think better of it. Returns job and hash, if there is one.

        One client for all of it: opening one loads the machine's certificates.
        """
        with self._client() as client:
            job_id = self._submit(client, number)
            if cancelled_after is not None:
                timer = threading.Timer(cancelled_after, self._cancel, [job_id])
                timer.daemon = True
                timer.start()
            self._open.add(job_id)
            heard = self._listen(client, job_id)
            self._open.discard(job_id)
            status = _until_told(lambda: client.get(job_id)).status
            digest = self._fetched(client, job_id) if status == "completed" else None
        self.ledger.note("result", job=job_id, status=status, sha256=digest, heard=heard)
        return job_id, digest

    def _submit(self, client: Client, number: int) -> str:
        key = f"{self.chaos.seed}-{random.getrandbits(64):x}"
        job = _until_told(lambda: client.submit(picture(), idempotency_key=key, **REQUESTS[number]))
        self.ledger.note("acknowledged", job=job.id, request=number)
        return str(job.id)

    def _listen(self, client: Client, job_id: str) -> list[int]:
        """Hear a job's events to the end. Returns their numbers as they came."""
        heard: list[int] = []
        while True:
            try:
                for event in client.events(job_id, after=heard[-1] if heard else 0):
                    if event.sequence is not None:
                        heard.append(event.sequence)
                return heard
            except (ServiceUnavailable, httpx.HTTPError):
                _until_told(lambda: client.get(job_id))  # then there is somebody to listen to again

    def _cancel(self, job_id: str) -> None:
        with self._client() as client, suppress(RequestRefused):  # refused: it has just ended
            _until_told(lambda: client.cancel(job_id))
        self.ledger.note("control", job=job_id, action="cancel")

    def _fetched(self, client: Client, job_id: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "video.mp4")
            _until_told(lambda: client.fetch(job_id, path))
            return hashlib.sha256(path.read_bytes()).hexdigest()

    def _look_for_leaks(self) -> None:
        """Ask for videos too early, all the time."""
        rng = random.Random(f"{self.chaos.seed} leaks")
        with httpx.Client(base_url=self.stack.url, timeout=5) as http:
            while not self._over.wait(SECONDS_BETWEEN_LOOKS):
                if self._open:
                    with suppress(httpx.HTTPError):
                        self._look_for_a_leak(http, rng.choice(sorted(self._open.copy())))

    def _look_for_a_leak(self, http: httpx.Client, job_id: str) -> None:
        if http.get(f"/jobs/{job_id}/video").is_error:
            return
        job = _until_told(lambda: http.get(f"/jobs/{job_id}").raise_for_status().json())
        if (status := job["status"]) != "completed":
            self.ledger.note("leak", job=job_id, status=status)

    def _client(self) -> Client:
        return Client(self.stack.url, timeout=10.0, retry_seconds=(0.2, 0.5, 1.0))

    def _break_things(self) -> None:
        """Each kind once, in any order, so that the shortest run has all; then as chance has it."""
        rng = random.Random(f"{self.chaos.seed} faults")
        acts: dict[Callable[[random.Random], None], float] = {
            self._kill_a_worker: 0.5,
            self._kill_the_gateway: 0.1,
            self._freeze: 0.15,
            self._kill_redis: 0.07,
            self._break_the_storage: 0.18,
            self._set_a_clock: 0.1,
        }
        pause = min(SECONDS_BETWEEN_FAULTS, self.chaos.seconds / (len(acts) + 2))
        first = rng.sample(list(acts), len(acts))
        end = time.monotonic() + self.chaos.seconds
        while first or time.monotonic() < end:
            time.sleep(rng.expovariate(1 / pause))
            act = first.pop() if first else rng.choices(list(acts), list(acts.values()))[0]
            act(rng)

    def _kill_a_worker(self, rng: random.Random) -> None:
        """One that serves, whichever comes first by lot: who only starts has nothing to lose."""
        workers = [v for v in self.stack.victims if v.role != "gateway"]
        lots = rng.sample(workers, len(workers))
        victim = next((v for v in lots if v.process.serves()), lots[0])
        victim.wait_until_it_serves()
        self.ledger.note("kill", role=victim.role, pid=victim.kill())

    def _kill_the_gateway(self, _rng: random.Random) -> None:
        (victim,) = (v for v in self.stack.victims if v.role == "gateway")
        self.ledger.note("kill", role=victim.role, pid=victim.kill())

    def _freeze(self, rng: random.Random) -> None:
        victim = rng.choice(self.stack.victims)
        seconds = rng.uniform(0.5, 2.5) * LEASE_SECONDS
        pid = victim.signal(signal.SIGSTOP)
        self.ledger.note("freeze", role=victim.role, pid=pid, seconds=round(seconds, 2))
        thaw = threading.Timer(seconds, victim.signal, [signal.SIGCONT])
        thaw.daemon = True
        thaw.start()

    def _kill_redis(self, rng: random.Random) -> None:
        seconds = rng.uniform(0.2, 1.5 * LEASE_SECONDS)
        self.ledger.note("redis_kill", pid=self.stack.valkey.pid, seconds=round(seconds, 2))
        self.stack.valkey.kill()
        time.sleep(seconds)
        self.stack.valkey.start()

    def _set_a_clock(self, rng: random.Random) -> None:
        """Of a worker; whoever takes its place has the same wrong clock."""
        victim = rng.choice([v for v in self.stack.victims if v.role != "gateway"])
        seconds = rng.uniform(-MOST_SECONDS_AHEAD, MOST_SECONDS_AHEAD)
        assert isinstance(victim.process, WorkerProcess)
        set_ahead(victim.process.clock, seconds)
        pid = victim.process.pid
        self.ledger.note("clock_jump", role=victim.role, pid=pid, ahead=round(seconds))

    def _break_the_storage(self, rng: random.Random) -> None:
        method = rng.choice(("PUT", "PUT", "GET"))
        faults: tuple[Fault, ...] = ("refuse", "reset", "lose")
        fault = rng.choice((*faults, "truncate") if method == "GET" else faults)
        for _ in range(rng.randint(1, 4)):
            self.stack.store.plan(method, fault)
            self.ledger.note("storage_fault", method=method, fault=fault)


def _until_told(ask: Callable[[], Any]) -> Any:
    """Ask as often as it takes: the service may be away for a while."""
    deadline = time.monotonic() + SECONDS_TO_END
    while True:
        try:
            return ask()
        except (ServiceUnavailable, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
