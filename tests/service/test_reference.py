"""The settings reference and the example environment say what the code reads."""

import re
from pathlib import Path

import pytest

from service.reference import reference
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "deploy/env.example").read_text()


def test_the_reference_is_what_the_code_writes() -> None:
    assert (ROOT / "docs/settings.md").read_text() == reference(WorkerSettings), "make settings"


def test_every_setting_has_a_row_and_no_default_is_a_secret() -> None:
    rows = re.findall(
        r"^\| `FRAMEPACK_(\w+)` \| (.*?) \| (.+) \|$", reference(WorkerSettings), re.M
    )
    assert [name.lower() for name, _, _ in rows] == list(WorkerSettings.model_fields)
    assert {name: default for name, default, _ in rows}["SIGNING_SECRET"] == "empty"


@pytest.mark.filterwarnings("error")
def test_the_example_is_read_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the lines that are commented out, too: they must be right when somebody needs them.
    pairs = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.M)
    own = {f"FRAMEPACK_{name.upper()}" for name in WorkerSettings.model_fields}
    compose = (ROOT / "docker-compose.yml").read_text() + (
        ROOT / "deploy/compose.gpu.yml"
    ).read_text()
    for name, value in pairs:
        assert name in own or f"${{{name}" in compose, f"nobody reads {name}"
        monkeypatch.setenv(name, value)
    settings = WorkerSettings()
    assert settings.presets == ("tiny",)
    assert settings.weights == {"framepack-i2v": "/weights/framepack-i2v"}
    assert settings.auth == "keys"
    assert settings.key_pepper.get_secret_value() == "change-me"
    assert settings.drain_seconds is not None


def test_the_example_has_what_compose_insists_on() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    needed = set(re.findall(r"\$\{([A-Z_]+):\?", compose))
    assert needed <= set(re.findall(r"^([A-Z_]+)=", EXAMPLE, re.M))
