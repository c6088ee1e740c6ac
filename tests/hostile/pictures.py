"""Pictures that are not what they seem, made here: a name, the bytes, and what must come of it.

`MARK` stands in whatever rides along; it must be in nothing that is stored.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

MARK = b"<script>rides_along()</script>"


@dataclass(frozen=True)
class Picture:
    """One upload.

    Attributes:
        refusal: Part of the reason; empty for one that is let through, cleaned.
    """

    name: str
    make: Callable[[], bytes]
    refusal: str = ""


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """A chunk of a PNG; its length may be a lie."""
    stated = len(data) if length is None else length
    return struct.pack(">I", stated) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *more: bytes, colours: int = 2) -> bytes:
    """A PNG from its packed rows, with more chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", header), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def plain(width: int = 96, height: int = 64, *more: bytes) -> bytes:
    return png(width, height, zlib.compress(bytes((1 + 3 * width) * height)), *more)


def saved(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def _zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("evil.html", MARK)
    return out.getvalue()


def _packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def _sides(width: int, height: int) -> bytes:
    return png(width, height, _packed(1000))


def _text(kind: bytes, size: int) -> bytes:
    """A compressed text or profile of so many bytes."""
    return chunk(kind, b"name\0\0" + _packed(size))


def _lie(length: int) -> bytes:
    return plain(96, 64, chunk(b"tEXt", b"a\0b", length))


def _frames(count: int) -> bytes:
    out = io.BytesIO()
    first, *more = (Image.new("RGB", (64, 64), (n % 256, n // 256, 0)) for n in range(count))
    first.save(out, "WEBP", save_all=True, append_images=more, lossless=True, method=0)
    return out.getvalue()


def _exif_that_leads_to_itself() -> bytes:
    """A directory of EXIF that names itself as what is in it and as what comes next."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    directory = struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return saved("JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory)


def _exif(text: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = text.decode()
    return exif.tobytes()


def many_scans() -> bytes:
    """A progressive JPEG of 3 MB whose last scan comes again and again: minutes of decoding."""
    out = io.BytesIO()
    Image.new("L", (4096, 4096), 77).save(out, "JPEG", progressive=True)
    body = out.getvalue()
    start = body.rindex(b"\xff\xda")
    scan = body[start:-2]
    return body[:start] + scan * (3_000_000 // len(scan)) + body[-2:]


PICTURES = [
    # -- bombs: small for what they become
    Picture("the largest sides there are", lambda: _sides(2**31 - 1, 2**31 - 1), "4096x4096"),
    Picture("60,000 by 60,000", lambda: _sides(60_000, 60_000), "4096x4096"),
    Picture("no sides", lambda: _sides(0, 0), "not a PNG"),
    Picture("one pixel high", lambda: plain(4096, 1), "at least 64"),
    Picture("50 MB of comment", lambda: plain(96, 64, _text(b"zTXt", 50_000_000)), "damaged"),
    Picture("50 MB of profile", lambda: plain(96, 64, _text(b"iCCP", 50_000_000)), "damaged"),
    Picture("50 MB of rows behind those it has", lambda: png(96, 64, _packed(50_000_000))),
    Picture("300 frames", lambda: _frames(300)),
    # -- lies about what follows
    Picture("a chunk of 4 GB that is not there", lambda: _lie(2**32 - 1), "damaged"),
    Picture("rows that end early", lambda: png(96, 64, _packed(10)), "damaged"),
    Picture("EXIF that leads to itself", _exif_that_leads_to_itself),
    # -- two things at once: what rides along is gone
    Picture("HTML behind a PNG", lambda: saved("PNG") + MARK),
    Picture("a ZIP behind a JPEG", lambda: saved("JPEG") + _zipped()),
    Picture("a script in a comment of JPEG", lambda: saved("JPEG", comment=MARK)),
    Picture("a script in a text of PNG", lambda: plain(96, 64, chunk(b"tEXt", b"a\0" + MARK))),
    Picture("a script in a chunk nobody knows", lambda: plain(96, 64, chunk(b"evIl", MARK))),
    Picture("a script in EXIF", lambda: saved("JPEG", exif=_exif(MARK))),
    Picture("a script in XMP", lambda: saved("WEBP", xmp=MARK)),
    Picture("a PDF before a PNG", lambda: b"%PDF-1.4\n" + saved("PNG"), "not a PNG"),
    # -- what other decoders of the library would take, with worse records
    *(
        Picture(kind, lambda kind=kind: saved(kind), "not a PNG")  # type: ignore[misc]
        for kind in ("GIF", "TIFF", "EPS", "PDF", "JPEG2000", "SGI", "PCX", "ICO", "DDS", "AVIF")
    ),
    Picture("SVG", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>" + MARK, "not a PNG"),
    Picture("a script", lambda: b"#!/bin/sh\n" + MARK, "not a PNG"),
]
