"""Pictures in: opened with limits, fitted to a video size as the official demo does."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from framepack.errors import InvalidRequest
from framepack.media.buckets import Size

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is decoded at all; Pillow's other readers are never reached."""

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50_000_000
MAX_ASPECT = 20


def open_image(source: Path | bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture to RGB: upright (EXIF orientation applied), on white where transparent.

    Of an animation the first picture counts.

    Raises:
        InvalidRequest: Not a picture of `FORMATS`, damaged, or beyond a limit; field ``image``.
    """
    data = _read(source)
    if len(data) > MAX_BYTES:
        raise _refusal(f"{len(data)} bytes; at most {MAX_BYTES} are accepted")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise _refusal(f"not a readable picture; use one of: {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _refusal(f"the picture is damaged: {error}") from error
    return np.asarray(_on_white(upright))


def _read(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with source.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refusal(f"cannot read {source}: {error.strerror}") from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _refusal(f"{width}x{height} pixels; at most {MAX_PIXELS} in all are accepted")
    if max(size) > MAX_ASPECT * min(size):
        raise _refusal(f"{width}x{height} is longer than {MAX_ASPECT} times its other side")


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def fit_image(
    pixels: UInt8[np.ndarray, "h w 3"], size: Size
) -> UInt8[np.ndarray, "height width 3"]:
    """Scale a picture to cover a size (LANCZOS) and cut out its centre; exact sizes stay untouched.

    Args:
        pixels: RGB.
        size: (height, width) to return.
    """
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    scaled = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    image = Image.fromarray(pixels).resize(scaled, Image.Resampling.LANCZOS)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    # Pillow rounds the box's halves to even, as in the official code.
    box = (left, top, left + width, top + height)
    return np.asarray(image.crop(box))


def _refusal(detail: str) -> InvalidRequest:
    return InvalidRequest("image", detail)
