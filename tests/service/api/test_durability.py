"""Which Redis servers are trusted with accepted jobs, against a real one."""

import logging
from collections.abc import Iterator

import pytest
from redis import Redis

from service.api.durability import Durability, UnsafeRedis
from tests.support.valkey import Valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("durability")) as server:
        yield server


@pytest.fixture
def client(server: Valkey) -> Iterator[Redis]:
    with Redis(port=server.port) as client:
        yield client
        client.acl_setuser("default", enabled=True, commands=["+config"])
        for name, value in (
            ("maxmemory-policy", "noeviction"),
            ("appendonly", "yes"),
            ("appendfsync", "always"),
        ):
            client.config_set(name, value)


def test_a_server_that_keeps_everything_is_trusted(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    Durability(client, accept=False).require()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru, set noeviction"),
        ("appendonly", "no", "appendonly is off"),
    ],
)
def test_a_server_that_forgets_is_refused(
    client: Redis, name: str, value: str, reason: str
) -> None:
    client.config_set(name, value)
    durability = Durability(client, accept=False)
    for _ in range(2):
        with pytest.raises(UnsafeRedis, match=reason):
            durability.require()


def test_a_server_that_does_not_tell_is_refused(client: Redis) -> None:
    client.acl_setuser("default", enabled=True, commands=["-config"])
    with pytest.raises(UnsafeRedis, match="does not allow CONFIG GET"):
        Durability(client, accept=False).require()


def test_an_unsafe_server_may_be_accepted_with_a_warning(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("appendonly", "no")
    Durability(client, accept=True).require()
    assert "appendonly is off" in caplog.text


def test_a_second_at_risk_is_only_a_warning(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client.config_set("appendfsync", "everysec")
    Durability(client, accept=False).require()
    assert "may lose the last second" in caplog.text
