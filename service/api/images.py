"""Uploaded pictures, each decoded in a limited process that sees no other tenant's.

A tenant's pictures get processes of their own (`image_decoder.py`), so that one tenant's picture
can never reach another's, and the process ends with the first picture that is refused. Starting
Python and Pillow takes longer than decoding a usual picture, so one process does that once and
forks; it never sees a picture's bytes, which go from here to the fork over a socket that is handed
on. A fork costs ten times a usual picture, too, so it stays for the tenant's next one.
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

from service.api.image_decoder import LENGTH_BYTES

log = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 10 * 1024 * 1024
SECONDS_TO_DECODE = 10.0
SECONDS_TO_WAIT = 20.0
MOST_IDLE = 4
"""Decoders that stay for their tenants' next pictures, about ten MiB each."""
_MOST_HEADER_BYTES = 4096
_MOST_PNG_BYTES = 64 * 1024 * 1024
"""More than the largest picture has without compression."""
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
        self._idle: list[_Decoder] = []

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
            for decoder in self._idle:
                decoder.line.close()
            self._idle = []
            if self._server is not None:
                self._server.end()
            self._server = None

    def decode(self, body: bytes, owner: str) -> DecodedImage:
        """Decode one picture. Blocks, so call it in a thread.

        Args:
            body: The file.
            owner: The tenant; a process decodes pictures of one only.

        Raises:
            ImageRefused: Says which rule the picture breaks.
            DecodersBusy: No decoder became free in time.
        """
        if not self._free.acquire(timeout=SECONDS_TO_WAIT):
            raise DecodersBusy
        try:
            answer = self._answer(body, owner)
        finally:
            self._free.release()
        if answer.refused is not None:
            raise ImageRefused(answer.refused)
        if answer.image is None:
            log.warning("an image decoder died at its picture")
            raise ImageRefused("The picture cannot be decoded within the limits.")
        return answer.image

    def _answer(self, body: bytes, owner: str) -> _Answer:
        deadline = time.monotonic() + self._seconds
        waiting = self._take(owner)
        if waiting is not None:
            answer = self._ask(waiting, body, deadline)
            if answer != _NOTHING:
                return answer
            # It may have died while it waited, which would not be this picture's fault.
        server = self._running()
        answer = self._ask(_Decoder(owner, server.fork()), body, deadline)
        if answer == _NOTHING and not server.alive:
            raise DecodersBusy
        return answer

    def _ask(self, decoder: _Decoder, body: bytes, deadline: float) -> _Answer:
        """What a decoder says about a picture; it is kept if it takes another."""
        answer = _NOTHING
        try:
            _send(decoder.line, body, deadline)
            answer = _receive(decoder.line, deadline)
        except TimeoutError:
            raise ImageRefused("Decoding the picture takes too long.") from None
        finally:
            if answer.more:
                self._keep(decoder)
            else:
                decoder.line.close()
        return answer

    def _take(self, owner: str) -> _Decoder | None:
        """A decoder that waits for a picture of an owner."""
        with self._lock:
            found = next((each for each in self._idle if each.owner == owner), None)
            if found is not None:
                self._idle.remove(found)
            return found

    def _keep(self, decoder: _Decoder) -> None:
        """Let a decoder wait; too many wait no longer, the first one goes."""
        with self._lock:
            self._idle.append(decoder)
            if len(self._idle) > MOST_IDLE:
                self._idle.pop(0).line.close()

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


@dataclass(frozen=True, eq=False)
class _Decoder:
    """A process that decodes pictures of one owner; it ends when its line is closed."""

    owner: str
    line: socket.socket


@dataclass(frozen=True)
class _Answer:
    """What came of a picture: an image, a reason against it, or nothing from a decoder that died.

    Attributes:
        more: Whether the decoder takes another.
    """

    image: DecodedImage | None = None
    refused: str | None = None
    more: bool = False


_NOTHING = _Answer()


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
        line.sendall(len(body).to_bytes(LENGTH_BYTES) + body)


def _receive(line: socket.socket, deadline: float) -> _Answer:
    """An answer, whole or none. A decoder may have been taken over: what it says is checked."""
    received = bytearray()
    try:
        while b"\n" not in received and len(received) <= _MOST_HEADER_BYTES:
            received += _piece(line, deadline)
        head, _, _ = received.partition(b"\n")
        said = json.loads(head)
        if "refused" in said:
            return _Answer(refused=str(said["refused"]))
        size, length = (int(said["height"]), int(said["width"])), int(said["png_bytes"])
        whole = len(head) + 1 + length
        while len(received) < whole <= _MOST_PNG_BYTES:
            received += _piece(line, deadline)
    except (EOFError, ConnectionResetError, ValueError, TypeError, KeyError, RecursionError):
        return _NOTHING
    if len(received) != whole:
        return _NOTHING
    return _Answer(DecodedImage(bytes(received[len(head) + 1 :]), size), more=bool(said["more"]))


def _piece(line: socket.socket, deadline: float) -> bytes:
    """Some bytes. Raises EOFError, TimeoutError."""
    line.settimeout(_left(deadline))
    piece = line.recv(1 << 20)
    if not piece:
        raise EOFError
    return piece


def _left(deadline: float) -> float:
    """Seconds to the deadline. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
