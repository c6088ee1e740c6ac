"""Whatever is in FAMILIES keeps these; a new family is picked up by itself."""

import xml.etree.ElementTree as ET

import pytest

from framepack.packing.drawing import draw
from framepack.packing.families import FAMILIES, FamilyOptions
from framepack.packing.report import PackingReport, packing_table
from framepack.packing.schedule import BASE_KERNEL, parse_schedule, pooled_first


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("window", [1, 9])
def test_its_name_parses_back(family: str, depth: int, window: int) -> None:
    if family == "level_duplication" and depth < 4:
        options = FamilyOptions(depth=depth, window=window, duplicates=(0,))
    else:
        options = FamilyOptions(depth=depth, window=window)
    schedule = FAMILIES[family](options)
    assert parse_schedule(str(schedule)) == schedule
    assert schedule.window == window


def test_the_newest_frame_is_uncompressed_and_age_never_sharpens(family: str) -> None:
    pack = FAMILIES[family](FamilyOptions()).earlier_pack
    assert pack is not None
    volumes = [level.kernel.volume for level in pack.levels]
    assert pack.levels[-1].kernel == BASE_KERNEL
    assert volumes == sorted(volumes, reverse=True)


def test_every_kernel_can_be_patchified(family: str) -> None:
    for level in FAMILIES[family](FamilyOptions()).levels:
        pool, projected = pooled_first(level.kernel)
        assert all(
            p * k == whole for p, k, whole in zip(pool, projected, level.kernel, strict=True)
        )


def test_the_report_adds_up(family: str) -> None:
    report = PackingReport(FAMILIES[family](FamilyOptions()), 76, 80).to_json()
    assert sum(level["tokens"] for level in report["levels"]) == report["context_tokens"]
    assert report["context_tokens"] < report["full_context_tokens"]


def test_it_is_drawn_and_in_the_table(family: str) -> None:
    schedule = FAMILIES[family](FamilyOptions())
    root = ET.fromstring(draw(schedule, 60, 104))
    frames = sum(level.frames for level in schedule.levels) + schedule.window
    assert len(root.findall("{*}rect")) > frames
    assert f"| {family} | `{schedule}` |" in packing_table()
