"""Uploaded pictures: what is let through, what comes out, and that a bad one hurts nobody."""

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from service.api import image_decoder
from service.api.images import MOST_IDLE, DecodedImage, ImageDecoders, ImageRefused, _receive
from tests.support.processes import alive, children_of, wait_for

OWNER = "a tenant"


@pytest.fixture(autouse=True)
def pillow_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder lowers Pillow's limit for its process, which here is everybody's."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(scope="module")
def decoders() -> Iterator[ImageDecoders]:
    with ImageDecoders(limit=2) as decoders:
        yield decoders


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def halves(width: int = 96, height: int = 64) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def pixels(decoded: DecodedImage) -> Image.Image:
    return Image.open(io.BytesIO(decoded.png), formats=["PNG"])


def colour(image: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    red, green, blue = image.crop((x, y, x + 1, y + 1)).tobytes()
    return red, green, blue


def refusal(decoders: ImageDecoders, body: bytes) -> str:
    with pytest.raises(ImageRefused) as refused:
        decoders.decode(body, OWNER)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_allowed_formats_become_rgb_png(decoders: ImageDecoders, kind: str) -> None:
    decoded = decoders.decode(encoded(halves(), kind), OWNER)
    image = pixels(decoded)
    assert decoded.size == (64, 96)
    assert (image.mode, image.size) == ("RGB", (96, 64))
    red, green, blue = colour(image, 10, 30)
    assert red > 240
    assert max(green, blue) < 15


def test_lossless_pixels_survive_exactly(decoders: ImageDecoders) -> None:
    noise = Image.frombytes("RGB", (70, 80), os.urandom(70 * 80 * 3))
    assert pixels(decoders.decode(encoded(noise, "PNG"), OWNER)).tobytes() == noise.tobytes()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(decoders: ImageDecoders, kind: str) -> None:
    assert "not a PNG, JPEG or WebP" in refusal(decoders, encoded(halves(), kind))


def test_what_is_no_picture_is_refused(decoders: ImageDecoders) -> None:
    assert "not a PNG" in refusal(decoders, b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert "not a PNG" in refusal(decoders, b"")


def test_a_truncated_picture_is_refused(decoders: ImageDecoders) -> None:
    body = encoded(Image.frombytes("RGB", (200, 200), os.urandom(120_000)), "JPEG")
    assert "damaged" in refusal(decoders, body[: len(body) // 2])


def test_sides_have_limits(decoders: ImageDecoders) -> None:
    assert "4096x4096" in refusal(decoders, encoded(Image.new("L", (4097, 64)), "PNG"))
    assert "at least 64" in refusal(decoders, encoded(Image.new("L", (63, 500)), "PNG"))
    assert decoders.decode(encoded(Image.new("L", (4096, 64)), "PNG"), OWNER).size == (64, 4096)


def test_a_decompression_bomb_is_refused_by_its_header(decoders: ImageDecoders) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    assert "4096x4096" in refusal(decoders, bomb)


def test_orientation_is_applied_and_metadata_dropped(decoders: ImageDecoders) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    exif[0x010E] = "somebody's garden"
    body = encoded(halves(), "JPEG", exif=exif.tobytes(), quality=95)
    decoded = decoders.decode(body, OWNER)
    image = pixels(decoded)
    assert decoded.size == (96, 64)
    assert colour(image, 30, 10)[0] > 200
    assert colour(image, 30, 90)[2] > 200
    assert b"garden" not in decoded.png
    assert not image.info


def test_bytes_after_the_picture_are_dropped(decoders: ImageDecoders) -> None:
    body = encoded(halves(), "PNG") + b"<script>alert(1)</script>"
    assert b"script" not in decoders.decode(body, OWNER).png


def test_only_the_first_frame_of_an_animation_is_used(decoders: ImageDecoders) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("lime", "black")]
    body = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert pixels(decoders.decode(body, OWNER)).getpixel((5, 5)) == (0, 255, 0)


def test_sixteen_bit_grey_is_scaled() -> None:
    # Pillow alone would clip everything over 255 to white.
    grey = Image.new("I;16", (64, 64), 128 * 256)
    assert image_decoder.decode(encoded(grey, "PNG")).getpixel((0, 0)) == (128, 128, 128)


def test_transparency_and_palettes_become_rgb() -> None:
    clear = Image.new("RGBA", (64, 64), (9, 8, 7, 128))
    assert image_decoder.decode(encoded(clear, "PNG")).getpixel((0, 0)) == (9, 8, 7)
    palette = halves().quantize(4)
    assert image_decoder.decode(encoded(palette, "PNG")).mode == "RGB"


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    with ImageDecoders(limit=1, seconds=0.0) as decoders:
        assert "too long" in refusal(decoders, encoded(halves(), "PNG"))


def server_of(decoders: ImageDecoders) -> int:
    """The process that forks."""
    assert decoders._server is not None
    return decoders._server.process.pid


def test_a_server_that_died_while_waiting_is_replaced() -> None:
    with ImageDecoders(limit=1) as decoders:
        first = server_of(decoders)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not alive(first))
        assert decoders.decode(encoded(halves(), "PNG"), OWNER).size == (64, 96)
        assert server_of(decoders) != first


def children(decoders: ImageDecoders) -> set[int]:
    """The processes that decode."""
    return set(children_of(server_of(decoders)))


@pytest.fixture
def alone() -> Iterator[ImageDecoders]:
    """One decoder at a time."""
    with ImageDecoders(limit=1) as decoders:
        yield decoders


def decoder_of(decoders: ImageDecoders, owner: str) -> int:
    """Decode for somebody; the process that waits for their next picture."""
    before = children(decoders)
    decoders.decode(encoded(halves(), "PNG"), owner)
    (decoder,) = children(decoders) - before
    return decoder


def test_a_child_that_dies_at_work_costs_only_its_picture(alone: ImageDecoders) -> None:
    slow = encoded(Image.frombytes("RGB", (1600, 1600), os.urandom(1600 * 1600 * 3)), "PNG")
    server = server_of(alone)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(alone.decode, slow, OWNER)
        wait_for(lambda: children(alone))
        (child,) = children(alone)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ImageRefused, match="within the limits"):
            answer.result()
    assert alone.decode(encoded(halves(), "PNG"), OWNER).size == (64, 96)
    assert server_of(alone) == server


def test_a_decoder_stays_for_pictures_of_the_same_tenant_only(alone: ImageDecoders) -> None:
    first = decoder_of(alone, "first")
    second = decoder_of(alone, "second")
    assert first != second
    for _ in range(3):
        alone.decode(encoded(halves(), "PNG"), "first")
        alone.decode(encoded(halves(), "JPEG"), "second")
    assert children(alone) == {first, second}


def test_a_refused_picture_is_the_last_of_its_decoder(alone: ImageDecoders) -> None:
    decoder = decoder_of(alone, OWNER)
    refusal(alone, b"no picture")
    wait_for(lambda: not alive(decoder))


def test_a_decoder_ends_after_enough_pictures(alone: ImageDecoders) -> None:
    body = encoded(halves(), "PNG")
    decoder = decoder_of(alone, OWNER)
    for _ in range(image_decoder.MOST_PICTURES - 1):
        assert children(alone) == {decoder}
        alone.decode(body, OWNER)
    wait_for(lambda: not alive(decoder))
    assert alone.decode(body, OWNER).size == (64, 96)


def test_a_decoder_that_took_much_takes_no_other_picture(alone: ImageDecoders) -> None:
    alone.decode(encoded(Image.new("RGB", (4096, 4096), "teal"), "JPEG"), OWNER)
    wait_for(lambda: not children(alone))


def test_a_decoder_that_died_while_waiting_costs_no_picture(alone: ImageDecoders) -> None:
    os.kill(decoder_of(alone, OWNER), signal.SIGKILL)
    assert alone.decode(encoded(halves(), "PNG"), OWNER).size == (64, 96)


def test_only_so_many_decoders_wait(alone: ImageDecoders) -> None:
    first = decoder_of(alone, "0")
    for number in range(1, MOST_IDLE + 1):
        alone.decode(encoded(halves(), "PNG"), str(number))
    wait_for(lambda: not alive(first))
    assert len(children(alone)) == MOST_IDLE


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no json\n",
        b"[" * 4000 + b"\n",
        b"9" * 5000,
        b"[]\n",
        b'{"width": 64, "height": 64, "png_bytes": 3, "more": true}\nab',
        b'{"width": 64, "height": 64, "png_bytes": 1, "more": true}\nab',
        b'{"width": 64, "height": 64, "png_bytes": -9, "more": true}\n',
        b'{"width": 64, "height": 64, "png_bytes": 99999999999, "more": true}\n',
    ],
)
def test_a_decoder_that_was_taken_over_is_not_believed(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        answer = _receive(ours, time.monotonic() + 5)
    assert (answer.image, answer.refused, answer.more) == (None, None, False)


def test_nothing_of_it_outlives_the_gateway() -> None:
    program = (
        "import os, signal; from service.api.images import ImageDecoders\n"
        "decoders = ImageDecoders().__enter__()\n"
        "print(decoders._server.process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    wait_for(lambda: not alive(int(said.stdout)))


def test_more_pictures_than_decoders_all_get_through(decoders: ImageDecoders) -> None:
    body = encoded(halves(), "PNG")
    with ThreadPoolExecutor(6) as pool:
        sizes = [decoded.size for decoded in pool.map(decoders.decode, [body] * 6, [OWNER] * 6)]
    assert sizes == [(64, 96)] * 6


def test_the_largest_picture_fits_into_the_limits(decoders: ImageDecoders) -> None:
    body = encoded(Image.new("RGB", (4096, 4096), "teal"), "JPEG")
    assert decoders.decode(body, OWNER).size == (4096, 4096)


def test_a_decoder_cannot_take_much_memory() -> None:
    child = Path(image_decoder.__file__)
    program = (
        f"import runpy; module = runpy.run_path({str(child)!r})\n"
        "module['limit_this_process']()\n"
        "bytearray(1 << 30)\n"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert b"MemoryError" in result.stderr
