"""The whole service as processes that can be killed: Valkey, Swift, a gateway, workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import boto3
import httpx
from botocore.config import Config

from framepack.models.tiny import build_folder
from tests.support import clock
from tests.support.faulty_store import FaultyStore
from tests.support.fleet import Worker
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift
from tests.support.valkey import Valkey, free_port

BUCKET = "chaos"
SWEEP_SECONDS = 10
LEASE_SECONDS = 2.0
WORKERS = ("render", "render", "deliver", "deliver")
SECONDS_TO_START = 60.0


class Gateway:
    """`python -m service gateway` as a process."""

    def __init__(self, port: int, environment: Mapping[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "service", "gateway", "--host", "127.0.0.1"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--port", str(port)],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def serves(self) -> bool:
        """Whether it listens, as far as one can tell: it runs."""
        return self.alive()

    def stop(self, seconds: float = 60.0) -> int:
        """Ask it to stop. Returns its exit status."""
        self._process.terminate()
        return self._process.wait(seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class WorkerProcess:
    """`python -m worker` of one lane."""

    def __init__(self, lane: str, environment: Mapping[str, str], log: Path) -> None:
        self._log, self._began = log, log.stat().st_size if log.exists() else 0
        self.clock = log.with_suffix(".clock")
        told = {**environment, clock.VARIABLE: str(self.clock)}
        self._worker = Worker(["--lane", lane], told, log)
        self.pid = self._worker.pid

    def alive(self) -> bool:
        return self._worker.process.is_alive()

    def serves(self) -> bool:
        """Whether it has its models and listens, and is not dead without a successor yet."""
        if not self.alive():
            return False
        with self._log.open("rb") as file:
            file.seek(self._began)
            return b" serves " in file.read()

    def end(self) -> None:
        self._worker.end()


@dataclass
class Victim:
    """A place for a process; whoever dies there is replaced, as by a supervisor."""

    role: str
    start: Callable[[], Gateway | WorkerProcess]
    process: Gateway | WorkerProcess

    def wait_until_it_serves(self, seconds: float = 20.0) -> None:
        """Give whoever is there the time to start; killing nobody but starters tests nothing."""
        with suppress(TimeoutError):
            _wait(lambda: self.process.serves(), seconds)

    def kill(self) -> int:
        """Kill whoever is there. Returns the process id."""
        pid = self.process.pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def signal(self, number: signal.Signals) -> int:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return self.process.pid


class ServiceStack:
    """Everything, from an empty folder; the storage is behind a proxy that can fail.

    Args:
        folder: For data and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.victims: list[Victim] = []
        self._exit = ExitStack()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._replace_the_dead, daemon=True)

    def __enter__(self) -> ServiceStack:
        for name in ("valkey", "swift", "logs"):
            (self.folder / name).mkdir(parents=True)
        build_folder(self.folder / "nano", size="nano")
        self.valkey = self._exit.enter_context(Valkey(self.folder / "valkey"))
        swift = self._exit.enter_context(Swift(self.folder / "swift"))
        _make_bucket(swift.endpoint)
        self.store = self._exit.enter_context(FaultyStore(swift.ports["proxy"]))
        self.port = free_port()
        self.storage_url = f"s3://{BUCKET}?endpoint={swift.endpoint}&region={REGION}"
        for number, lane in enumerate(WORKERS):
            self._add(lane, f"{lane}-{number}", self._worker)
        self._add("gateway", "gateway", self._gateway)
        self._keeper.start()
        _wait(lambda: _answers(f"{self.url}/readyz"), SECONDS_TO_START)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._keeper.join()
        for victim in self.victims:
            victim.signal(signal.SIGCONT)
            victim.process.end()
        self._exit.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, *, through_proxy: bool = True) -> dict[str, str]:
        """What every process of the service, and the checker, is told."""
        url = self.storage_url
        if through_proxy:
            direct = url.partition("endpoint=")[2].partition("&")[0]
            url = url.replace(direct, f"http://127.0.0.1:{self.store.port}")
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "OMP_NUM_THREADS": "1",
            "FRAMEPACK_AUTH": "open",
            "FRAMEPACK_REDIS_URL": self.valkey.url,
            "FRAMEPACK_STORAGE_URL": url,
            "FRAMEPACK_PUBLIC_URL": self.url,
            "FRAMEPACK_PRESETS": "tiny",
            "FRAMEPACK_WEIGHTS": f'{{"tiny": "{self.folder / "nano"}"}}',
            "FRAMEPACK_DEVICE": "cpu",
            "FRAMEPACK_TORCH_THREADS": "1",
            "FRAMEPACK_LEASE_SECONDS": str(LEASE_SECONDS),
            "FRAMEPACK_SWEEP_HOURS": str(SWEEP_SECONDS / 3600),
            # Chance may hit one task many times in a row, and none of it is the task's fault.
            "FRAMEPACK_MAX_CRASHES": "1000",
            "FRAMEPACK_BACKOFF_SECONDS": "0,0.2",
        }

    def _add(
        self, role: str, name: str, make: Callable[[str, Path], Gateway | WorkerProcess]
    ) -> None:
        log = self.folder / "logs" / f"{name}.log"

        def start() -> Gateway | WorkerProcess:
            return make(role, log)

        self.victims.append(Victim(role, start, start()))

    def _worker(self, lane: str, log: Path) -> WorkerProcess:
        return WorkerProcess(lane, self.environment(), log)

    def _gateway(self, _role: str, log: Path) -> Gateway:
        return Gateway(self.port, self.environment(), log)

    def _replace_the_dead(self) -> None:
        while not self._stop.wait(0.2):
            for victim in self.victims:
                if not victim.process.alive():
                    victim.process.end()
                    victim.process = victim.start()


def _make_bucket(endpoint: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=BUCKET)


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).is_success
    return False


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        time.sleep(0.1)
