"""Ranges of numbers in a configuration, checked where they are read."""

from __future__ import annotations

import math
from typing import Any

from framepack.errors import InvalidRequest


def check_ranges(
    settings: Any, place: str, **ranges: tuple[float, float] | tuple[float, float, bool]
) -> None:
    """Hold numbers of a dataclass to ranges.

    Args:
        settings: The dataclass.
        place: What it is called in a configuration; empty if each name says enough.
        ranges: By name: least and most, both allowed; a third item, True, excludes the least.

    Raises:
        InvalidRequest: A number, or one of a tuple of them, is outside or not finite.
    """
    for name, (least, most, *above) in ranges.items():
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            low = each > least if above and above[0] else each >= least
            if not (low and each <= most and math.isfinite(each)):
                bound = f"above {least:g}" if above and above[0] else f"at least {least:g}"
                upper = "" if math.isinf(most) else f" and at most {most:g}"
                field = f"{place}.{name}" if place else name
                raise InvalidRequest(field, f"must be {bound}{upper}, not {each:g}")
