"""Pictures to video sizes, against the official choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framepack.errors import InvalidRequest
from framepack.media.buckets import OFFICIAL_BUCKETS, nearest_bucket

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "transformer.json").read_text())


@pytest.mark.parametrize("size", sorted(GOLDEN["buckets"]))
def test_official_choices(size: str) -> None:
    height, width = map(int, size.split("x"))
    assert list(nearest_bucket((height, width))) == GOLDEN["buckets"][size]


def test_a_tie_goes_to_the_later_entry() -> None:
    assert nearest_bucket((1, 1)) == (640, 608)


def test_every_bucket_is_its_own() -> None:
    assert [nearest_bucket(size) for size in OFFICIAL_BUCKETS] == list(OFFICIAL_BUCKETS)


def test_a_picture_without_area_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        nearest_bucket((0, 5))
