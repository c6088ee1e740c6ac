"""Which video size a picture gets (torch-free).

Every size has the area of about 640 x 640 and sides divisible by 32, so that all packing kernels of
the released models need at most one row or column of padding.
"""

import re

from framepack.errors import InvalidRequest

Size = tuple[int, int]
"""(height, width) in pixels."""

OFFICIAL_BUCKETS: tuple[Size, ...] = (
    (416, 960),
    (448, 864),
    (480, 832),
    (512, 768),
    (544, 704),
    (576, 672),
    (608, 640),
    (640, 608),
    (672, 576),
    (704, 544),
    (768, 512),
    (832, 480),
    (864, 448),
    (960, 416),
)
"""The 14 sizes of the released models, by ascending height."""


def parse_size(text: str) -> Size:
    """(height, width) of ``WIDTHxHEIGHT``, as sizes are written.

    Raises:
        InvalidRequest: It is not written so.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise InvalidRequest("size", "write WIDTHxHEIGHT in pixels, such as 832x480")
    width, height = map(int, match.groups())
    return height, width


def nearest_bucket(image: Size, buckets: tuple[Size, ...] = OFFICIAL_BUCKETS) -> Size:
    """The bucket whose aspect ratio is nearest to the picture's.

    The measure is ``|h * bucket_width - w * bucket_height|``, not a ratio, and a tie goes to the
    later entry: a square picture gets 640 x 608 (height x width). Both as in the official code.

    Raises:
        InvalidRequest: The picture has no area.
    """
    height, width = image
    if height < 1 or width < 1:
        raise InvalidRequest("image", f"a picture of {width}x{height} pixels has no area")
    return min(reversed(buckets), key=lambda b: abs(height * b[1] - width * b[0]))
