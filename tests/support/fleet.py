"""Real worker processes around a real server and a file storage, for tests of the whole.

The gateway's parts that workers need are here in small: a submit, and a sweeper.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import redis.exceptions
from PIL import Image
from redis import Redis

from framepack.generation.plan import plan_generation
from service.contract import eventlog
from service.contract.bells import Bells
from service.contract.connections import KEY_PREFIX, connect
from service.contract.job import Artifact, Event, Job, JobRequest, JobSpec, Lane
from service.contract.record import Record
from service.contract.settings import Settings
from service.contract.storage import open_storage
from tests.support import clock, memory
from worker.__main__ import main

SECONDS_TO_START = 120.0


class Worker:
    """One worker process; its log is a file.

    Forked from a process that has imported torch and the models' libraries already: importing takes
    most of a start, and tests start many. What runs is `python -m worker` all the same.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["worker.process"])
        self.process = context.Process(target=_run, args=(arguments, environment, log))
        log.touch()
        self.process.start()

    def wait_until_ready(self, workers: int = 1) -> None:
        """Return when it, or all workers that it supervises, listen."""
        wait_for(lambda: self.text().count(" serves ") >= workers or self._died(), SECONDS_TO_START)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_until_frozen(self) -> None:
        """Return when it has stopped itself, as at a crash point with ``@SIGSTOP``."""
        status = Path(f"/proc/{self.process.pid}/stat")
        wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", SECONDS_TO_START)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status, or the number of the signal that ended it, negative."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still runs after {seconds:g} s:\n{self.text()}"
        return self.process.exitcode

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """End it however it stands."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()

    def _died(self) -> bool:
        if not self.process.is_alive():
            raise RuntimeError(f"the worker ended with {self.process.exitcode}:\n{self.text()}")
        return False


def _run(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """What the new process does: become `python -m worker`."""
    os.environ.update(environment)
    if clock.VARIABLE in environment:
        clock.follow(Path(environment[clock.VARIABLE]))
    if memory.VARIABLE in environment:
        memory.ask_the_kernel(int(environment[memory.VARIABLE]))
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.exit(main(arguments))


class Fleet:
    """A service without a gateway.

    Args:
        redis_url: The server.
        weights: Folders by preset; one alone is that of ``tiny``.
        folder: For storage and logs.
        settings: More ``FRAMEPACK_*`` settings, without the prefix.
    """

    def __init__(
        self, redis_url: str, weights: Path | Mapping[str, Path], folder: Path, **settings: str
    ) -> None:
        by_preset = {"tiny": weights} if isinstance(weights, Path) else weights
        folders = {preset: str(path) for preset, path in by_preset.items()}
        chosen: dict[str, Any] = {
            "presets": ",".join(folders),
            "redis_url": redis_url,
            "storage_url": f"file://{folder / 'storage'}",
            "device": "cpu",
            "torch_threads": "1",
            **settings,
        }
        self.settings = Settings(**chosen, weights=folders)
        self._environment = {
            "OMP_NUM_THREADS": "1",
            **_variables({**chosen, "weights": json.dumps(folders)}),
        }
        self._folder = folder
        self.storage = open_storage(self.settings.storage_url)
        self.redis: Redis = connect(redis_url)
        self.record = Record(self.redis, self.settings.record_policy())
        self.bells = Bells(redis_url)
        self._workers: list[Worker] = []
        self._stop = threading.Event()
        self.sweeps = True
        """Set to false before the with block where a gateway's sweeper is to be seen at work."""
        self._sweeper = threading.Thread(target=self._sweep, name="sweeper", daemon=True)

    def __enter__(self) -> Fleet:
        self._sweeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._sweeper.join()
        for worker in self._workers:
            worker.end()
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()
        self.bells.close()

    @property
    def environment(self) -> dict[str, str]:
        """What its workers are told, for one that is started otherwise."""
        return dict(self._environment)

    def start(self, *arguments: str, **settings: str) -> Worker:
        """Start `python -m worker` with more arguments and settings; does not wait."""
        log = self._folder / f"worker-{len(self._workers)}.log"
        worker = Worker(list(arguments), {**self._environment, **_variables(settings)}, log)
        self._workers.append(worker)
        return worker

    def start_lane(self, lane: Lane, **settings: str) -> Worker:
        """Start a worker of one lane; does not wait."""
        return self.start("--lane", lane, **settings)

    def supervise(self) -> tuple[Worker, dict[str, int]]:
        """Start `python -m worker supervise`; returns it and its workers' process ids by lane."""
        supervisor = self.start("supervise")
        supervisor.wait_until_ready(workers=len(Lane))
        return supervisor, self.supervised()

    def supervised(self) -> dict[str, int]:
        """The process ids that supervisors last started, by lane."""
        logs = "\n".join(worker.text() for worker in self._workers)
        return {lane: int(pid) for lane, pid in re.findall(r"(\w+) runs as process (\d+)", logs)}

    def submit(self, tenant: str = "default", **request: Any) -> str:
        """Accept a job as the gateway does. Returns its id."""
        return self.accept(self.spec(tenant, **request))

    def accept(self, spec: JobSpec) -> str:
        """Accept a job as it stands. Returns its id."""
        if spec.image is not None:
            self.storage.put(spec.image.key, picture(), "image/png")
        self.bells.ring(self.record.submit(spec).ring)
        return spec.id

    def events(self, job_id: str) -> list[Event]:
        return eventlog.read(self.redis, job_id)

    def names(self, job_id: str) -> list[str]:
        """The types of a job's events, in order."""
        return [event.type for event in self.events(job_id)]

    def wait_for_end(self, job_id: str, seconds: float = 60.0) -> Job:
        """The job in its terminal state."""
        self.wait_for(lambda: self.record.get(job_id).status.terminal, seconds)
        return self.record.get(job_id)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Return when a condition holds; fail with the workers' logs when it does not in time."""
        try:
            wait_for(condition, seconds)
        except TimeoutError as error:
            logs = "\n".join(f"{worker.log.name}\n{worker.text()}" for worker in self._workers)
            raise AssertionError(f"{error}\n{logs}") from error

    def wait_for_step(self, job_id: str, section: int, step: int) -> None:
        """Return when a step of a section is reported, or a later one."""

        def reached() -> bool:
            progress = self.record.progress(job_id)
            here = (progress.section or 0, progress.step or 0)
            return progress.sections_sampled > section or here >= (section, step)

        wait_for(reached, 30.0, pause=0.002)

    def content(self, artifact: Artifact) -> bytes:
        """A committed artifact's bytes, checked."""
        data = self.storage.get(artifact.key)
        assert hashlib.sha256(data).hexdigest() == artifact.sha256
        assert len(data) == artifact.size_bytes
        return data

    def committed(self, job_id: str) -> dict[str, str]:
        """Storage keys of a job's committed artifacts, by ``{lane}:{number}``."""
        fields = cast(dict[str, str], self.redis.hgetall(f"{KEY_PREFIX}job:{job_id}"))
        prefix = "artifact:"
        return {
            name.removeprefix(prefix): Artifact.model_validate_json(value).key
            for name, value in fields.items()
            if name.startswith(prefix)
        }

    def stored(self, job_id: str, lane: Lane) -> list[str]:
        """Storage keys of everything that was ever uploaded for a lane of a job."""
        return [found.key for found in self.storage.list(f"jobs/{job_id}/{lane}/")]

    def video(self, job_id: str) -> bytes:
        """The bytes of a completed job's video."""
        video = self.record.get(job_id).video
        assert video is not None
        return self.content(video)

    def spec(self, tenant: str = "default", *, pictured: bool = True, **fields: Any) -> JobSpec:
        """A job to accept; what is not given is as in `REQUEST`."""
        request = JobRequest(**{**REQUEST, **fields})
        size, job_id = PICTURE_SIZE if pictured else None, uuid.uuid4().hex
        plan = plan_generation(request.to_generation(), size)
        return JobSpec(
            id=job_id,
            tenant=tenant,
            request=request,
            image=_stored_picture(job_id) if pictured else None,
            image_size=size,
            order=plan.order,
            schedule=str(plan.schedule),
            num_sections=len(plan.sections),
            num_frames=plan.num_pixel_frames,
            fps=plan.config.fps,
            video_size=(plan.height, plan.width),
        )

    def _sweep(self) -> None:
        record = Record(connect(self.settings.redis_url), self.settings.record_policy())
        bells = Bells(self.settings.redis_url)
        while self.sweeps and not self._stop.wait(0.2):
            with suppress(redis.exceptions.ConnectionError):
                bells.ring(record.sweep().ring)
        bells.close()
        record.redis.close()


REQUEST: dict[str, Any] = {"prompt": "a red ball", "preset": "tiny", "seconds": 3.6, "seed": 7}
PICTURE_SIZE = (64, 64)


def _stored_picture(job_id: str) -> Artifact:
    return Artifact(
        key=f"jobs/{job_id}/image.png",
        sha256=hashlib.sha256(picture()).hexdigest(),
        size_bytes=len(picture()),
        content_type="image/png",
    )


def picture() -> bytes:
    """A start picture as the gateway stores it."""
    image = Image.radial_gradient("L").resize(PICTURE_SIZE).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Keep an idle worker from claiming for the length of a with block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> None:
    """Return when a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        time.sleep(pause)


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as a worker reads them from its environment."""
    return {f"FRAMEPACK_{name.upper()}": value for name, value in settings.items()}
