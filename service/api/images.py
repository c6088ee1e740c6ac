"""Uploaded pictures, decoded in child processes that are started ahead of need.

Each picture gets a process of its own (`image_decoder.py`), so that one tenant's picture can never
reach another's and whatever a decoder leaks goes with it. Starting Python and Pillow takes longer
than decoding a usual photograph, so a few children wait, started, for the next picture.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import deque
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
    """Decodes pictures, at most `limit` at a time, each in a limited process of its own.

    As a context manager it keeps children waiting; without, each picture starts its own.
    """

    def __init__(self, limit: int = 2, seconds: float = SECONDS_TO_DECODE) -> None:
        self._seconds = seconds
        self._limit = limit
        self._free = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._spares: deque[subprocess.Popen[bytes]] = deque()
        self._keep = False

    def __enter__(self) -> ImageDecoders:
        self._keep = True
        self._spares.extend(_start() for _ in range(self._limit))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._keep = False
            spares = list(self._spares)
            self._spares.clear()
        for child in spares:
            _end(child)

    def decode(self, body: bytes) -> DecodedImage:
        """Decode one picture. Blocks, so call it in a thread.

        Raises:
            ImageRefused: Says which rule the picture breaks.
            DecodersBusy: No decoder became free in time.
        """
        if not self._free.acquire(timeout=SECONDS_TO_WAIT):
            raise DecodersBusy
        try:
            return self._decode_in(self._take(), body)
        finally:
            self._free.release()

    def _take(self) -> subprocess.Popen[bytes]:
        """A child that is alive, and a new one started in its place."""
        with self._lock:
            child = self._spares.popleft() if self._spares else _start()
            if self._keep:
                self._spares.append(_start())
        if child.poll() is None:
            return child
        # It died while waiting, by the kernel's memory killer say.
        _end(child)
        return _start()

    def _decode_in(self, child: subprocess.Popen[bytes], body: bytes) -> DecodedImage:
        try:
            answer, _ = child.communicate(body, timeout=self._seconds)
        except subprocess.TimeoutExpired:
            raise ImageRefused("Decoding the picture takes too long.") from None
        finally:
            _end(child)
        if child.returncode != 0:
            log.warning("an image decoder ended with status %s", child.returncode)
            raise ImageRefused("The picture cannot be decoded within the limits.")
        line, _, png = answer.partition(b"\n")
        header = json.loads(line)
        if "refused" in header:
            raise ImageRefused(header["refused"])
        return DecodedImage(png=png, size=(header["height"], header["width"]))


def _start() -> subprocess.Popen[bytes]:
    # -I and an empty environment: no credentials of the gateway within a decoder's reach.
    return subprocess.Popen(
        [sys.executable, "-I", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        close_fds=True,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill and reap a child, and close its pipes."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None and not pipe.closed:
            pipe.close()
