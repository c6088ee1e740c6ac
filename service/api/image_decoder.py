"""The child process that decodes one uploaded picture and dies.

A picture is the only thing users send whose parsing is complicated, so it is parsed where a bomb or
a memory error costs nothing: a process without the gateway's environment, with limits on memory,
processor time and files, which reads one picture from its standard input until the end, answers on
its standard output with one line of JSON, followed by the pixels as PNG when they are acceptable,
and exits. Run by path, so that it imports nothing of this project.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import warnings
import zlib
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SIDE = 4096
MIN_SIDE = 64
MEMORY_BYTES = 1 << 30
PROCESSOR_SECONDS = 10


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


def answer(body: bytes, out: BinaryIO) -> None:
    """Write the answer to one picture: a line of JSON, then the PNG if there is one."""
    try:
        image = decode(body)
        header, png = {"width": image.width, "height": image.height}, to_png(image)
    except Refused as refused:
        out.write(json.dumps({"refused": str(refused)}).encode() + b"\n")
        return
    out.write(json.dumps(header).encode() + b"\n")
    out.write(png)


def limit_this_process() -> None:
    """Bound memory, processor time and what can be written, for good."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve the one picture on standard input."""
    Image.init()  # import the format plug-ins now, while there is time
    limit_this_process()
    answer(sys.stdin.buffer.read(), sys.stdout.buffer)


if __name__ == "__main__":
    main()
