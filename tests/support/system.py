"""Programs that come from system packages: tests that need one are skipped by name without it.

`.ci/run` installs the packages and sets FRAMEPACK_REQUIRE_SYSTEM_PACKAGES, which turns such a skip
into a failure.
"""

import os
import shutil

import pytest


def require_program(program: str, package: str) -> str:
    """Path of a program, or skip the calling test with the name of the package to install."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = f"needs the system package {package} ({program} is not on the PATH)"
    if os.environ.get("FRAMEPACK_REQUIRE_SYSTEM_PACKAGES"):
        pytest.fail(reason)
    pytest.skip(reason)
