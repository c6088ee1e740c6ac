"""Check at run time the tensor shapes that the library's signatures state, and nothing else.

Tests hand in stand-ins for protocols and numbers for floats; what mypy says about those is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def check_shapes_of(package: str) -> None:
    """Check every call of a package's functions that is imported from now on, in this process."""
    install_import_hook(package, f"{__name__}.{checked.__name__}")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """For jaxtyping's import hook: a type checker to which only shapes are types.

    Raises:
        BeartypeCallHintViolation: On a call with another shape, dtype or number of axes.
    """
    hints = function.__annotations__
    function.__annotations__ = {
        name: hint if _states_a_shape(hint) else Any for name, hint in hints.items()
    }
    return beartype(function)


def _states_a_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_states_a_shape(part) for part in get_args(hint))
