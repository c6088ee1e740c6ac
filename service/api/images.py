"""Uploaded pictures, each decoded in a limited process of its own.

A picture gets a process (`image_decoder.py`), so that one tenant's picture can never reach
another's and whatever a decoder leaks goes with it. Starting Python and Pillow takes longer than
decoding a usual picture, so one process does that once and forks for each picture, whose bytes it
never sees: they go from here to the fork over a socket that is handed on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 10 * 1024 * 1024
SECONDS_TO_DECODE = 10.0
SECONDS_TO_WAIT = 20.0
_PROGRAM = Path(__file__).with_name("image_decoder.py")


class ImageRefused(Exception):  # noqa: N818 - reads as what it is at the raise site
    """The picture is not acceptable; the message is one sentence for the user."""


class DecodersBusy(Exception):  # noqa: N818
    """Every decoder has been busy for too long; the same request may succeed later."""


@dataclass(frozen=True)
class DecodedImage:
    """A picture after decoding.

    Attributes:
        png: The pixels, re-encoded; nothing else of the upload is left.
        size: Its (height, width) in pixels.
    """

    png: bytes
    size: tuple[int, int]


class ImageDecoders:
    """Decodes pictures, at most `limit` at a time; as a context manager it ends what it started."""

    def __init__(self, limit: int = 2, seconds: float = SECONDS_TO_DECODE) -> None:
        self._seconds = seconds
        self._free = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._server: _ForkServer | None = None

    def __enter__(self) -> ImageDecoders:
        self._running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._server is not None:
                self._server.end()
            self._server = None

    def decode(self, body: bytes) -> DecodedImage:
        """Decode one picture. Blocks, so call it in a thread.

        Raises:
            ImageRefused: Says which rule the picture breaks.
            DecodersBusy: No decoder became free in time.
        """
        if not self._free.acquire(timeout=SECONDS_TO_WAIT):
            raise DecodersBusy
        try:
            return self._read(self._answer(body))
        finally:
            self._free.release()

    def _running(self) -> _ForkServer:
        """The fork server; a new one in the place of one that died."""
        with self._lock:
            if self._server is not None and not self._server.alive:
                log.warning("the image decoder's server died; starting another")
                self._server.end()
                self._server = None
            if self._server is None:
                self._server = _ForkServer(self._seconds)
            return self._server

    def _answer(self, body: bytes) -> bytes:
        """What a fork says about a picture. Empty if it died."""
        deadline = time.monotonic() + self._seconds
        server = self._running()
        try:
            with server.fork() as line:
                _send(line, body, deadline)
                answer = _receive(line, deadline)
        except TimeoutError:
            raise ImageRefused("Decoding the picture takes too long.") from None
        if not answer and not server.alive:
            # Not this picture's fault, as far as anybody knows.
            raise DecodersBusy
        return answer

    def _read(self, answer: bytes) -> DecodedImage:
        line, _, png = answer.partition(b"\n")
        try:
            header = json.loads(line)
        except ValueError:
            header = {}
        if "refused" in header:
            raise ImageRefused(header["refused"])
        if header.get("png_bytes") != len(png):
            log.warning("an image decoder died at its picture")
            raise ImageRefused("The picture cannot be decoded within the limits.")
        return DecodedImage(png=png, size=(header["height"], header["width"]))


class _ForkServer:
    """The process that forks one decoder for each socket it is handed."""

    def __init__(self, seconds: float) -> None:
        self._control, theirs = socket.socketpair()
        self._sending = threading.Lock()
        with theirs:
            # -I and an empty environment: no credentials of the gateway within a decoder's reach.
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM), str(theirs.fileno()), str(seconds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                close_fds=True,
                pass_fds=(theirs.fileno(),),
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def fork(self) -> socket.socket:
        """The line to a decoder of its own; it ends at once if there is none."""
        ours, theirs = socket.socketpair()
        with theirs, self._sending, contextlib.suppress(OSError):
            socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
        return ours

    def end(self) -> None:
        self._control.close()
        self.process.kill()
        self.process.wait()


def _send(line: socket.socket, body: bytes, deadline: float) -> None:
    line.settimeout(_left(deadline))
    # A decoder that died before it had read all is found out by its missing answer.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        line.sendall(body)
        line.shutdown(socket.SHUT_WR)


def _receive(line: socket.socket, deadline: float) -> bytes:
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while True:
            line.settimeout(_left(deadline))
            piece = line.recv(1 << 20)
            if not piece:
                break
            pieces.append(piece)
    return b"".join(pieces)


def _left(deadline: float) -> float:
    """Seconds to the deadline. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
