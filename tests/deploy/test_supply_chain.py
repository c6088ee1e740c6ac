"""What others wrote: all of it pinned, the pins true, an audit that says what it could not ask."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NOT_PINNED = {"pip", "bitsandbytes"}
"""pip comes with Python; bitsandbytes (`train-8bit`) does nothing without a GPU to try it on."""


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", ROOT / "deploy/supply_chain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


supply = _load()
EXTRAS: list[str] = sorted(supply.project()["project"]["optional-dependencies"])
BUILD: list[str] = supply.project()["build-system"]["requires"]


def version(name: str) -> str:
    """What is installed, without the label of a build (``+cpu``)."""
    return metadata.version(name).partition("+")[0]


def test_constraints_are_exact_sorted_and_each_there_once() -> None:
    lines = supply.CONSTRAINTS.read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert lines == sorted(lines, key=str.lower)
    assert len(supply.pins()) == len(lines)


def test_every_requirement_of_the_project_is_pinned_to_a_version_that_satisfies_it() -> None:
    stated = [*supply.direct(EXTRAS), *map(Requirement, BUILD)]
    pinned = supply.pins()
    for requirement in stated:
        name = canonicalize_name(requirement.name)
        if name not in NOT_PINNED:
            assert pinned[name] in requirement.specifier, requirement


def test_what_is_installed_is_what_is_pinned_and_nothing_is_pinned_for_nobody() -> None:
    needed = set(supply.closure(["test"])) | {canonicalize_name(Requirement(b).name) for b in BUILD}
    assert {name: version(name) for name in needed - NOT_PINNED} == supply.pins()


@pytest.mark.parametrize("image", supply.IMAGES)
def test_a_bill_of_materials_is_valid_and_whole(image: str, tmp_path: Path) -> None:
    supply.write_bills(tmp_path)
    text = (tmp_path / f"{image}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill: dict[str, Any] = json.loads(text)
    listed = {part["name"]: part["version"] for part in bill["components"]}
    pinned = supply.pins()
    assert listed == {name: pinned[name] for name in supply.closure(supply.IMAGES[image])}
    assert ("torch" in listed) == (image == "worker")
    assert {"redis", "pydantic", "pillow"} <= set(listed)
    # Each part is reached from the whole.
    edges = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    reached, waiting = set(), [bill["metadata"]["component"]["bom-ref"]]
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += edges[here]
    assert len(reached) == 1 + len(listed)


def test_the_images_install_what_the_bills_list() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for image, extras in supply.IMAGES.items():
        assert f"'.[{','.join(extras)}]'" in text.partition(f"AS {image}-build")[2]


def report(*answers: dict[str, Any]) -> str:
    return json.dumps({"dependencies": answers, "fixes": []})


ADVISORY = {"id": "GHSA-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}
CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "1", "vulns": [ADVISORY]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        (report(CLEAN), 0, "0 advisories for 1 packages"),
        (report(CLEAN, UNKNOWN), 0, "nothing is known of c"),
        (report(CLEAN, BAD), 1, "b 1: GHSA-1, fixed in 2.0"),
        (report(UNKNOWN), supply.CANNOT_ASK, "SKIPPED: the advisory service here knows none of 1"),
        ("", supply.CANNOT_ASK, "SKIPPED: the advisory service cannot be reached"),
    ],
)
def test_an_audit_without_answers_is_no_success(
    said: str, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit itself ends with 0 where its service knows no package."""
    assert supply.judged(said) == status
    assert told in capsys.readouterr().out
