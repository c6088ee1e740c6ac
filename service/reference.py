"""The reference of all settings, from the code that reads them.

docs/settings.md is this module's page of a worker's settings, which are all; a test holds it to it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from service.contract.settings import Settings

HEAD = """# Settings

Everything that changes with a deployment is an environment variable. Only entry points read them,
and the gateway and all workers of a deployment get the same ones. Written by `make settings`; a row
marked *worker* matters to workers only.

| variable | default | meaning |
|---|---|---|
"""
FOOT = """
Credentials of an S3 store come from boto3's own chain: `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, a profile, or the instance's role.
"""


def reference(kind: type[BaseSettings]) -> str:
    """All settings of a class as one Markdown page; those that `Settings` lacks are a worker's."""
    texts = _texts(kind)
    rows = [_row(name, field, texts) for name, field in kind.model_fields.items()]
    return HEAD + "".join(rows) + FOOT


def _row(name: str, field: FieldInfo, texts: dict[str, str]) -> str:
    whose = "" if name in Settings.model_fields else "*worker*: "
    return f"| `FRAMEPACK_{name.upper()}` | {_shown(field.default)} | {whose}{texts[name]} |\n"


def _texts(kind: type[BaseSettings]) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each attribute."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        _, _, attributes = (each.__doc__ or "").partition("Attributes:\n")
        for match in re.finditer(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", attributes, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split()).replace("``", "`").replace("|", "\\|")
    return found


def _shown(default: Any) -> str:
    if default is PydanticUndefined or default is None:
        return "none"
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, dict):
        default = json.dumps(default) if default else ""
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`" if default != "" else "empty"
