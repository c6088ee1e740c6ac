"""`python -m service keys`, as an operator uses it."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.__main__ import main
from service.contract.access import Access
from service.contract.record import Record
from tests.support.jobs import do_all, make_spec
from tests.support.valkey import free_port


class Operator:
    """Runs the command and reads what it says."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert main(["keys", *arguments]) == status
        out, self.complaint = self._capsys.readouterr()
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def operator(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Operator:
    monkeypatch.setenv("FRAMEPACK_REDIS_URL", redis_url)
    monkeypatch.setenv("FRAMEPACK_KEY_PEPPER", "pepper")
    return Operator(capsys)


def test_keys_are_made_listed_and_revoked(operator: Operator, redis: Redis) -> None:
    token = operator("create", "ann", "--label", "laptop").strip()
    assert "cannot be shown again" in operator.complaint
    found = Access(redis, b"pepper").find(token)
    assert found is not None
    assert found.tenant == "ann"
    second = operator.json("create", "ann", "--scope", "jobs:read")
    assert second["scopes"] == ["jobs:read"]
    listed = operator.json("list")["keys"]
    assert [key["label"] for key in listed] == ["laptop", ""]
    assert listed[0]["last_used_at"].endswith("Z")
    assert listed[1]["last_used_at"] is None
    assert token not in json.dumps(listed)
    assert "ann" in operator("list", "ann")
    assert operator.json("revoke", second["id"]) == {"revoked": second["id"]}
    assert operator.json("list", "nobody") == {"keys": []}
    assert operator("list", "nobody") == ""


def test_a_tenant_may_have_limits_of_its_own(operator: Operator) -> None:
    assert operator.json("limits", "ann")["limits"] == {
        "submissions": 60,
        "jobs": 100,
        "gpu_seconds": 0,
    }
    changed = operator.json("limits", "ann", "--jobs", "7", "--submissions", "0")["limits"]
    assert changed == {"submissions": 0, "jobs": 7, "gpu_seconds": 0}
    assert operator.json("limits", "bob")["limits"]["jobs"] == 100
    assert "jobs  7" in operator("limits", "ann")
    back = operator.json("limits", "ann", "--jobs", "default")["limits"]
    assert back == {"submissions": 0, "jobs": 100, "gpu_seconds": 0}
    with pytest.raises(SystemExit):
        operator("limits", "ann", "--jobs", "-1")


def test_usage_is_told(operator: Operator, redis: Redis) -> None:
    record = Record(redis)
    record.submit(make_spec("ann", sections=2))
    do_all(record)
    usage = operator.json("usage", "ann")["usage"]
    assert (usage["jobs"], usage["completed"], usage["sections"]) == (1, 1, 2)
    # Three tasks of the render lane and three of the other, a byte each.
    assert usage["bytes"] == 6
    assert operator.json("usage", "ann", "--days", "0")["usage"]["jobs"] == 0
    assert "jobs  0" in operator("usage", "nobody")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "no spaces"), "a tenant's name is"),
        (("revoke", "0123456789ab"), "there is no key"),
        (("list", "--data", "/nowhere"), "not the data folder"),
    ],
)
def test_what_cannot_be_done_is_said(
    operator: Operator, arguments: tuple[str, ...], reason: str
) -> None:
    operator(*arguments, status=1)
    assert reason in operator.complaint


def test_a_record_that_is_away_is_said(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEPACK_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    operator("list", status=1)
    assert "is Redis running" in operator.complaint


def test_the_data_folder_of_up_says_where(
    operator: Operator, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FRAMEPACK_REDIS_URL")
    lines = f"FRAMEPACK_REDIS_URL={redis_url}\nFRAMEPACK_KEY_PEPPER=another\n"
    (tmp_path / "environment").write_text(lines)
    made = operator.json("create", "ann", "--data", str(tmp_path))
    assert operator.json("list", "--data", str(tmp_path))["keys"][0]["id"] == made["id"]
