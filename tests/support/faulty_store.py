"""A TCP proxy before an HTTP store, for the ways a store fails: refusals, resets, short bodies."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

Fault = Literal["refuse", "reset", "lose", "truncate"]

REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class _Planned:
    method: bytes
    fault: Fault


class FaultyStore:
    """Forwards to a port on loopback; faults are planned by request method, one a request.

    refuse: 503 at once. reset: the connection breaks before the store hears anything. lose: the
    store does it, its answer is lost. truncate: the answer's head arrives, most of its body not.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.happened: list[Fault] = []
        self._planned: list[_Planned] = []
        self._sockets: list[socket.socket] = [self._server]

    def plan(self, method: str, *faults: Fault) -> None:
        """Let the next requests of a method fail, one after the other."""
        self._planned += [_Planned(f"{method} /".encode(), fault) for fault in faults]

    def __enter__(self) -> FaultyStore:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection: requests forward in this thread, answers backward in another."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as store,
        ):
            self._sockets.append(store)
            answer_fault: list[Fault] = []
            back = threading.Thread(
                target=self._answers, args=(store, client, answer_fault), daemon=True
            )
            back.start()
            while data := client.recv(1 << 16):
                fault = self._next_fault(data)
                if fault == "refuse":
                    _hang_up(client, REFUSAL)
                    return
                if fault == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    return
                if fault is not None:
                    answer_fault.append(fault)
                store.sendall(data)

    def _next_fault(self, data: bytes) -> Fault | None:
        for planned in self._planned:
            if data.startswith(planned.method):
                self._planned.remove(planned)
                self.happened.append(planned.fault)
                return planned.fault
        return None

    def _answers(self, store: socket.socket, client: socket.socket, faults: list[Fault]) -> None:
        with contextlib.suppress(OSError):
            while data := store.recv(1 << 16):
                # "100 Continue" is not the answer yet.
                if faults and not data.startswith(b"HTTP/1.1 100"):
                    head, mark, body = data.partition(b"\r\n\r\n")
                    whole = head + mark + body[: len(body) // 2]
                    _hang_up(client, whole if faults[0] == "truncate" else b"")
                    return
                client.sendall(data)


def _hang_up(client: socket.socket, last_words: bytes) -> None:
    """Say something and end the connection, whoever else still waits for it."""
    client.sendall(last_words)
    client.shutdown(socket.SHUT_RDWR)
