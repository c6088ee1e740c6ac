"""The doctor finds what is wrong in real servers, and says what to do."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from service.__main__ import main
from service.contract.settings import Settings
from service.contract.storage import open_storage
from service.doctor import Finding, examine
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, Swift
from tests.support.valkey import Valkey, free_port


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(settings)}


def settings(redis_url: str, storage_url: str, **changes: object) -> Settings:
    values: dict[str, object] = {
        "redis_url": redis_url,
        "storage_url": storage_url,
        "public_url": f"http://127.0.0.1:{free_port()}",
        "signing_secret": SecretStr("a secret for these tests"),
        "key_pepper": SecretStr("a pepper"),
        "device": "cpu",
        **changes,
    }
    return Settings(**values)  # type: ignore[arg-type]


def test_a_good_deployment_has_nothing_to_fix(redis_url: str, tmp_path: Path) -> None:
    findings = found(settings(redis_url, f"file://{tmp_path}"))
    assert {name: each.way_out for name, each in findings.items() if each.way_out} == {}
    assert findings["Redis appendfsync"].found == "always"
    assert not list(tmp_path.rglob("*.mp4"))


def test_unsafe_settings_of_redis_are_named(tmp_path: Path) -> None:
    with Valkey(tmp_path, keeps=False) as server:
        with Redis(port=server.port) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        findings = found(settings(server.url, f"file://{tmp_path}"))
    assert "appendonly yes" in findings["Redis appendonly"].way_out
    assert "noeviction" in findings["Redis maxmemory-policy"].way_out


def test_what_is_away_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    away = settings(f"redis://127.0.0.1:{free_port()}/0", f"file://{tmp_path}", presets=("f1",))
    findings = found(away)
    assert "FRAMEPACK_REDIS_URL" in findings["Redis"].way_out
    assert not findings["Storage: delete"].way_out
    assert "FRAMEPACK_WEIGHTS" in findings["Weights of f1"].way_out


def test_a_gateway_is_not_asked_for_what_workers_have(redis_url: str, tmp_path: Path) -> None:
    """Compose makes the bucket with the gateway's image and the workers' settings."""
    weights = {"framepack-i2v": "/weights/framepack-i2v"}
    chosen = settings(
        redis_url, f"file://{tmp_path}", weights=weights, presets=tuple(weights), device="cuda"
    )
    assert "Weights of framepack-i2v" in {each.what for each in examine(chosen) if each.way_out}
    assert [each for each in examine(chosen, works=False) if each.way_out] == []


def test_a_folder_without_weights_is_told(redis_url: str, tmp_path: Path) -> None:
    weights = {"tiny": str(tmp_path)}
    finding = found(settings(redis_url, f"file://{tmp_path}", weights=weights))["Weights of tiny"]
    assert "no .safetensors" in finding.found
    assert finding.way_out


def test_an_s3_store_is_tried_with_real_requests(
    redis_url: str, swift: Swift, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    storage = f"s3://doctor?endpoint={swift.endpoint}&region={REGION}"
    chosen = settings(redis_url, storage)
    assert "exists" in found(chosen)["Storage"].way_out
    findings = {each.what: each for each in examine(chosen, make_bucket=True)}
    assert findings["Bucket"].found == "made"
    assert findings["Storage: signed link"].found == "leads to the bytes"
    assert findings["Storage: expired and forged links"].found == "refused"
    assert findings["Storage: conditional write"].found == "what is there is kept"
    assert {name for name, each in findings.items() if each.way_out} == set()
    # Clients may reach the store under another name: links are signed for that one.
    public = open_storage(f"{storage}&public=http://localhost:{swift.ports['proxy']}")
    public.put("probe", b"x", "video/mp4")
    url = public.signed_url("probe", expires_in=60, content_type="video/mp4", filename="x.mp4")
    assert urlsplit(url).hostname == "localhost"
    assert httpx.get(url).content == b"x"


def test_the_command_says_it_all_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAMEPACK_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("FRAMEPACK_STORAGE_URL", f"file://{tmp_path}")
    monkeypatch.setenv("FRAMEPACK_SIGNING_SECRET", "a secret")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FIX  Redis: ConnectionError" in out
    assert "ok   Storage: delete" in out
    assert "a secret" not in out
