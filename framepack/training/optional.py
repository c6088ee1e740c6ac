"""Libraries that only some trainings need, imported when one does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from framepack.errors import InvalidRequest


def imported(module: str, field: str, extra: str = "train") -> Any:
    """A module of an optional library.

    Args:
        module: Its name.
        field: The setting that needs it.
        extra: Of this package, that installs it.

    Raises:
        InvalidRequest: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InvalidRequest(
            field, f"this needs {module} ({error}): pip install 'framepack-service[{extra}]'"
        ) from error
