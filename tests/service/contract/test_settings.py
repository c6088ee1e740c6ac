"""Settings from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.contract.settings import Settings


def test_defaults_need_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert settings.presets == ("tiny",)
    assert settings.record_policy().lease_ms == 30_000


def test_values_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEPACK_PRESETS", "tiny,framepack-i2v")
    monkeypatch.setenv("FRAMEPACK_BACKOFF_SECONDS", "0,1.5")
    monkeypatch.setenv("FRAMEPACK_WEIGHTS", '{"tiny": "/weights/tiny"}')
    settings = Settings()
    assert settings.presets == ("tiny", "framepack-i2v")
    assert settings.record_policy().backoff_ms == (0, 1500)
    assert settings.weights == {"tiny": "/weights/tiny"}


def test_a_way_to_ask_for_keys_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEPACK_AUTH", "none")
    with pytest.raises(ValidationError, match="'keys' or 'open'"):
        Settings()


def test_origins_are_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "https://app.example.com,http://localhost:5173,http://[::1]:3000,capacitor://localhost"
    monkeypatch.setenv("FRAMEPACK_ALLOWED_ORIGINS", given)
    assert Settings().allowed_origins == tuple(given.split(","))


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example.com",
        "https://*.example.com",
        "https://app.example.com/",
        "https://app.example.com/app",
        "https://App.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://user@app.example.com",
        "https://app.example.com, https://b.example.com",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_refused(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    monkeypatch.setenv("FRAMEPACK_ALLOWED_ORIGINS", origin)
    with pytest.raises(ValidationError, match=r"allowed_origins(.|\n)*scheme://host\[:port\]"):
        Settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEPACK_SIGNING_SECRET", "hush")
    monkeypatch.setenv("FRAMEPACK_KEY_PEPPER", "hush")
    assert "hush" not in repr(Settings())
