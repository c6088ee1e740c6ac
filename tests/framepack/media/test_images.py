"""Pictures of every accepted kind, and the ones that are refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from framepack.errors import InvalidRequest
from framepack.media.images import MAX_BYTES, fit_image, open_image


def picture(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_come_back_exactly(kind: str, options: dict[str, Any]) -> None:
    pixels = picture(20, 30)
    assert np.array_equal(open_image(encoded(Image.fromarray(pixels), kind, **options)), pixels)


def test_jpeg_and_paths_open(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.new("RGB", (30, 20), (200, 30, 40)), "JPEG"))
    pixels = open_image(path)
    assert pixels.shape == (20, 30, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 40)).max() < 5


def test_photos_are_turned_upright() -> None:
    image = Image.fromarray(picture(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    turned = open_image(encoded(image, "PNG", exif=exif))
    assert np.array_equal(turned, np.rot90(np.asarray(image), -1))


def test_transparency_shows_white_and_grey_becomes_rgb() -> None:
    layer = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert open_image(encoded(layer)).min() == 255
    grey = open_image(encoded(Image.new("L", (4, 4), 77)))
    assert grey.shape == (4, 4, 3)
    assert set(grey.flatten()) == {77}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable picture"),
        (b"GIF89a" + bytes(40), "not a readable picture"),
        (encoded(Image.new("RGB", (8, 8)), "BMP"), "PNG, JPEG, WEBP"),
        (encoded(Image.fromarray(picture(64, 64)))[:-4000], "damaged"),
        (encoded(Image.new("L", (8000, 8000))), "at most 50000000 in all"),
        (encoded(Image.new("L", (10, 401))), "longer than 20 times"),
        (bytes(MAX_BYTES + 1), "at most 10485760"),
    ],
    ids=["empty", "nonsense", "format", "cut", "pixels", "strip", "bytes"],
)
def test_what_cannot_be_served_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refusal:
        open_image(data)
    assert refusal.value.field == "image"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        open_image(tmp_path / "none.png")


def fitted_literally(pixels: Any, height: int, width: int) -> Any:
    """Scale to cover with whole sides, cut the centre; halves go to the even pixel."""
    old_height, old_width, _ = pixels.shape
    factor = max(width / old_width, height / old_height)
    scaled = Image.fromarray(pixels).resize(
        (round(old_width * factor), round(old_height * factor)), Image.Resampling.LANCZOS
    )
    left, top = round((scaled.width - width) / 2), round((scaled.height - height) / 2)
    return np.asarray(scaled)[top : top + height, left : left + width]


@pytest.mark.parametrize(
    "shape", [(100, 100), (101, 64), (64, 101), (33, 90), (200, 64), (65, 64), (64, 67)]
)
def test_fit_covers_and_cuts_the_centre(shape: tuple[int, int]) -> None:
    pixels = picture(*shape)
    fitted = fit_image(pixels, (64, 64))
    assert fitted.shape == (64, 64, 3)
    assert np.array_equal(fitted, fitted_literally(pixels, 64, 64))


def test_fit_leaves_the_exact_size_alone() -> None:
    pixels = picture(48, 80)
    assert fit_image(pixels, (48, 80)) is pixels
