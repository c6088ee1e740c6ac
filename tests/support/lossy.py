"""A TCP proxy that loses answers: the command arrives, its reply does not come back."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class LossyProxy:
    """Forwards to a port on loopback; breaks the connection where an answer is to be lost.

    It can also stop to answer on all connections there are, without closing one, as when a machine
    on the way vanishes; new connections work.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.lost = 0
        self._marks: list[bytes] = []
        self._age = 0
        self._sockets: list[socket.socket] = [self._server]

    def lose_the_answer_to(self, mark: bytes) -> None:
        """Lose the answer to the next request that contains these bytes."""
        self._marks.append(mark)

    def go_silent(self) -> None:
        """Answer nothing more on the connections there are."""
        self._age += 1

    def __enter__(self) -> LossyProxy:
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
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """One request, one answer: the clients here do not pipeline beyond one write."""
        age = self._age
        with contextlib.suppress(OSError):
            while request := client.recv(1 << 20):
                server.sendall(request)
                answer = server.recv(1 << 20)
                if age != self._age:
                    continue
                mark = next((each for each in self._marks if each in request), None)
                if mark is not None:
                    self._marks.remove(mark)
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(answer)
