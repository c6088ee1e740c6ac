"""What several rooms' tests need: the smallest folder of real models."""

from pathlib import Path

import pytest

from framepack.models.tiny import build_folder


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of every part, read like a released checkpoint."""
    folder = tmp_path_factory.mktemp("weights") / "nano"
    build_folder(folder, "nano", seed=0)
    return folder
