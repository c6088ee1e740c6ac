"""The running whole: started in order, watched, stopped in the opposite order.

Everything that must survive lies in one data folder: Valkey's append-only file, the storage, the
secrets, the API key that was made at the first start, and the logs. Stopping and starting on the
same folder loses nothing.
"""

from __future__ import annotations

import fcntl
import secrets
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import redis

from service.up import kept, parts
from service.up.children import CannotRun, Child, stop_all, wait_until

TEND_SECONDS = 0.2
SECONDS_TO_START = 60.0


class Stack:
    """The whole service as a context manager; inside, `url` answers.

    Args:
        data: The data folder; made if it is missing.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        presets: What the workers serve; empty takes the settings' default.
        open: Ask nobody for an API key; only on loopback.
        say: Gets one line about whatever a person should know.
    """

    def __init__(
        self,
        data: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        presets: Sequence[str] = (),
        open: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._data = data.absolute()
        self._address = (host, port)
        self._presets = presets
        self._no_keys = open
        self._say = say
        self._open = ExitStack()
        self._children: list[Child] = []
        self.url = ""
        self.api_key = ""

    def __enter__(self) -> Stack:
        with ExitStack() as opened:
            opened.enter_context(_locked(self._data))
            opened.callback(self._stop)
            self._start()
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def pids(self) -> dict[str, int | None]:
        """Process ids by name of the part."""
        return {child.spec.name: child.pid for child in self._children}

    def watch(self, stop: threading.Event) -> None:
        """Start again whatever dies, until told to stop.

        Raises:
            CannotRun: A part ended in a way that starting it again cannot repair.
        """
        while not stop.wait(TEND_SECONDS):
            for child in self._children:
                news = child.tend()
                if news is not None:
                    self._say(news)

    def _start(self) -> None:
        places = self._places()
        environment = parts.environment(places, self._presets)
        logs = self._data / "logs"
        logs.mkdir(exist_ok=True)
        specs = [
            parts.valkey(places),
            parts.gateway(places, environment),
            parts.worker("render", environment),
            parts.worker("deliver", environment),
        ]
        store, front, *workers = (Child(spec, logs) for spec in specs)
        self._start_one(store)
        wait_until(lambda: _answers_ping(places.redis_url), store, SECONDS_TO_START)
        kept.tell_where(self._data, places)
        if not self._no_keys:
            self.api_key = kept.ready_key(self._data, places)
        for child in (front, *workers):
            self._start_one(child)
        wait_until(lambda: _is_ready(places.url), front, SECONDS_TO_START)
        self.url = places.url

    def _start_one(self, child: Child) -> None:
        self._children.append(child)
        child.start()

    def _stop(self) -> None:
        store = [child for child in self._children if child.spec.name == "valkey"]
        # The workers still have something to tell the store.
        stop_all(child for child in self._children if child not in store)
        stop_all(store)
        self._children.clear()

    def _places(self) -> parts.Places:
        host, port = self._address
        return parts.Places(
            data=self._data,
            host=host,
            port=_usable_port(host, port),
            redis_port=parts.free_port(),
            redis_password=secrets.token_urlsafe(24),
            signing_secret=kept.secret(self._data / "signing-secret"),
            key_pepper=kept.secret(self._data / "key-pepper"),
            open=self._no_keys,
        )


def _usable_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
            raise CannotRun(reason) from error
        found: int = probe.getsockname()[1]
        return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a data folder, so that two services cannot share it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            reason = f"another service runs on {folder}; choose another --data"
            raise CannotRun(reason) from error
        yield


def _answers_ping(url: str) -> bool:
    with redis.Redis.from_url(url, retry=None, socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except redis.exceptions.RedisError:
            return False


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
