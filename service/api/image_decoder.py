"""The processes that decode uploaded pictures: one that waits, and its forks, one for each socket.

A picture is the only thing users send whose parsing is complicated, so it is parsed where a bomb or
a memory error costs nothing: a process without the gateway's environment, with limits on memory,
time and files. It reads a picture from its socket (eight bytes of length, then the picture) and
answers with one line of JSON, followed by the pixels as PNG when they are acceptable. It may do so
again, which the line says, for whoever holds the socket; it ends with the first picture that it
refuses, or when it has done enough. The process that waits has imported what decoding needs and
touches no picture, so a fork finds nothing of another's. Run by path, so that it imports nothing of
this project.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import sys
import warnings
import zlib
from typing import IO, NoReturn

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SIDE = 4096
MIN_SIDE = 64
MEMORY_BYTES = 1 << 30
PROCESSOR_SECONDS = 10
GRACE_SECONDS = 1.0
LENGTH_BYTES = 8
MOST_PICTURES = 64
"""Of one process, of which none was refused: what a decoder leaks stays small."""
SECONDS_FOR_ANOTHER = 1.0
MEMORY_FOR_ANOTHER = 128 << 20
"""A process that has taken more takes no other picture: the next one has nearly all of the time."""


class Refused(Exception):  # noqa: N818 - reads as what it is at the raise site
    """The picture is not acceptable; the message is one sentence for the user."""


def decode(body: bytes) -> Image.Image:
    """The first frame of a picture, upright, in RGB.

    Args:
        body: A whole PNG, JPEG or WebP file.

    Raises:
        Refused: Says which rule the picture breaks.
    """
    Image.MAX_IMAGE_PIXELS = MAX_SIDE * MAX_SIDE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=FORMATS) as image:
                _check_size(*image.size)
                image.seek(0)
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise Refused("The file is not a PNG, JPEG or WebP picture.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Refused(_too_large()) from None
    except MemoryError:
        raise Refused("Decoding the picture takes too much memory.") from None
    except (OSError, SyntaxError, ValueError, EOFError):
        # What Pillow's decoders raise on damaged files.
        raise Refused("The picture is damaged and cannot be decoded.") from None


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise Refused(_too_large())
    if min(width, height) < MIN_SIDE:
        raise Refused(f"The picture's sides must be at least {MIN_SIDE} pixels.")


def _too_large() -> str:
    return f"The picture must not be larger than {MAX_SIDE}x{MAX_SIDE} pixels."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits of grey: Pillow's own conversion clips at 255 instead of scaling.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return image.convert("RGB")


def to_png(image: Image.Image) -> bytes:
    """The pixels as PNG and nothing else: no EXIF, no colour profile, no text, no trailer."""
    image.info = {}
    out = io.BytesIO()
    # Run-length coding: twice as fast as the default level on photographs, and no larger.
    image.save(out, format="PNG", compress_type=zlib.Z_RLE)
    return out.getvalue()


def answer(body: bytes, out: IO[bytes], *, last: bool) -> bool:
    """Write the answer to one picture: a line of JSON, then the PNG if there is one.

    Returns:
        Whether this process takes another picture, which the line says as `more`.
    """
    try:
        image = decode(body)
        png = to_png(image)
    except Refused as refused:
        out.write(json.dumps({"refused": str(refused)}).encode() + b"\n")
        return False
    more = not last and not _has_done_enough()
    header = {"width": image.width, "height": image.height, "png_bytes": len(png), "more": more}
    out.write(json.dumps(header).encode() + b"\n")
    out.write(png)
    return more


def _has_done_enough() -> bool:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds, memory = used.ru_utime + used.ru_stime, used.ru_maxrss << 10
    return seconds > SECONDS_FOR_ANOTHER or memory > MEMORY_FOR_ANOTHER


def limit_this_process() -> None:
    """Bound memory, time and what can be written, for good."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(control: socket.socket, seconds: float) -> None:
    """Fork for every socket that arrives, until the other side closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are reaped by the kernel
    while True:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not byte:
            return
        if os.fork() == 0:
            control.close()
            _decode_for(descriptors[0], seconds)
        os.close(descriptors[0])


def _decode_for(descriptor: int, seconds: float) -> NoReturn:
    """What a fork does: the pictures on its socket, of one owner."""
    status = 1
    try:
        limit_this_process()
        with socket.socket(fileno=descriptor) as line:
            asked, out = line.makefile("rb"), line.makefile("wb")
            left = MOST_PICTURES
            while left and _decode_next(asked, out, seconds, last=left == 1):
                left -= 1
        status = 0
    finally:
        os._exit(status)


def _decode_next(asked: IO[bytes], out: IO[bytes], seconds: float, *, last: bool) -> bool:
    """Wait for a picture and answer; whether to wait for another."""
    length = asked.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return False
    # Nobody waits for longer; the alarm's default is to end the process.
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    more = answer(asked.read(int.from_bytes(length)), out, last=last)
    out.flush()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return more


def main() -> None:
    """Serve the socket whose number is the first argument; the second is a picture's seconds."""
    Image.init()  # import the format plug-ins now, while there is time
    with socket.socket(fileno=int(sys.argv[1])) as control:
        serve(control, float(sys.argv[2]))


if __name__ == "__main__":
    main()
