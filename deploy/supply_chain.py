"""What is shipped that others wrote: `python deploy/supply_chain.py audit | sbom FOLDER`.

`audit` asks the advisory service about every version in constraints.txt. `sbom` writes a CycloneDX
bill of materials of each image, from what is installed here by the same constraints. Both start
from pyproject.toml, so an extra that is new is covered at once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = "framepack-service"
IMAGES = {"gateway": ("gateway", "tracing"), "worker": ("worker", "tracing")}
"""The extras that the Dockerfile installs, by target."""

CANNOT_ASK = os.EX_TEMPFAIL


def project() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    """Versions in constraints.txt by canonical name.

    Raises:
        ValueError: A line is no exact version.
    """
    found = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            found[canonicalize_name(name)] = version
    return found


def direct(extras: Iterable[str]) -> list[Requirement]:
    """What extras ask for themselves; one that names another extra of ours stands for its own."""
    stated: Mapping[str, list[str]] = project()["project"]["optional-dependencies"]
    found = []
    for requirement in (Requirement(text) for extra in extras for text in stated[extra]):
        own = canonicalize_name(requirement.name) == PROJECT
        found += direct(sorted(requirement.extras)) if own else [requirement]
    return found


def closure(extras: Iterable[str]) -> dict[str, set[str]]:
    """Everything that extras bring along here, each with what it needs itself, by canonical name.

    Raises:
        importlib.metadata.PackageNotFoundError: Something of it is not installed.
    """
    needs: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(_name(each), part) for each in direct(extras) for part in ("", *each.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for each in map(Requirement, metadata.requires(name) or ()):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                needs.setdefault(name, set()).add(_name(each))
                waiting += [(_name(each), part) for part in ("", *each.extras)]
        needs.setdefault(name, set())
    return needs


def bill(extras: Iterable[str], name: str) -> str:
    """The bill of materials of a process with these extras, as CycloneDX 1.6 in JSON."""
    needs = closure(extras)
    parts = {each: _component(each) for each in needs}
    whole = Component(
        name=name, version=project()["project"]["version"], type=ComponentType.APPLICATION
    )
    bom = Bom(components=parts.values())
    bom.metadata.component = whole
    bom.register_dependency(whole, [parts[_name(each)] for each in direct(extras)])
    for each, needed in needs.items():
        bom.register_dependency(parts[each], [parts[other] for other in sorted(needed)])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def write_bills(folder: Path) -> int:
    """Write one file an image; returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, extras in IMAGES.items():
        path = folder / f"{image}.cdx.json"
        path.write_text(bill(extras, f"framepack-{image}") + "\n", encoding="utf-8")
        _say(f"sbom: {len(closure(extras))} packages of the {image} in {path}")
    return 0


def audit() -> int:
    """Ask about all pins; returns 0, 1 for advisories, CANNOT_ASK when there was no answer."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    return judged(done.stdout)


def judged(report: str) -> int:
    """Tell what pip-audit's JSON says, and what it does not say; the exit status of `audit`."""
    try:
        answers = json.loads(report)["dependencies"]
    except ValueError:
        _say("audit: SKIPPED: the advisory service cannot be reached from here")
        return CANNOT_ASK
    unknown = [each["name"] for each in answers if "skip_reason" in each]
    known = [each for each in answers if "skip_reason" not in each]
    if not known:
        # pip-audit counts this as a success.
        _say(f"audit: SKIPPED: the advisory service here knows none of {len(unknown)} packages")
        return CANNOT_ASK
    found = [(each, advisory) for each in known for advisory in each["vulns"]]
    for each, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        _say(f"audit: {each['name']} {each['version']}: {advisory['id']}, fixed in {fixed}")
    if unknown:
        _say(f"audit: nothing is known of {', '.join(unknown)}")
    _say(f"audit: {len(found)} advisories for {len(known)} packages")
    return 1 if found else 0


def _component(name: str) -> Component:
    installed = metadata.distribution(name)
    version = installed.version.partition("+")[0]
    license_text = installed.metadata.get("License-Expression") or installed.metadata["License"]
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=_licenses(license_text or ""),
    )


def _licenses(text: str) -> list[Any]:
    """A license by its name; some packages state its whole text instead."""
    named = re.fullmatch(r"[^\n]{1,80}", text)
    return [LicenseFactory().make_from_string(text)] if named else []


def _name(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["audit"]:
            sys.exit(audit())
        case ["sbom", folder]:
            sys.exit(write_bills(Path(folder)))
        case _:
            sys.exit(__doc__)
