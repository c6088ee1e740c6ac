"""API keys as they are stored: hashed, two a tenant, found only whole, noted when used."""

from collections.abc import Callable

import pytest
from redis import Redis

from service.contract.access import USED_STEP_MS, Access, Scope
from service.contract.errors import InvalidTenant, KeyNotFound, TooManyKeys


@pytest.fixture
def access(redis: Redis) -> Access:
    return Access(redis, b"pepper")


def stored(redis: Redis) -> str:
    """Everything the server holds, as text."""
    found = []
    for key in redis.scan_iter("*"):
        read: Callable[[str], object] = {"hash": redis.hgetall, "set": redis.smembers}[
            str(redis.type(key))
        ]
        found.append(f"{key} {read(str(key))}")
    return "\n".join(found)


def test_a_key_is_found_by_its_whole_and_stored_only_as_a_hash(
    access: Access, redis: Redis
) -> None:
    token, made = access.create("ann", [Scope.JOBS_READ], "laptop")
    prefix, key_id, secret = token.split("_")
    assert (prefix, key_id, len(secret)) == ("fp", made.id, 64)
    found = access.find(token)
    assert found is not None
    assert (found.tenant, found.label) == ("ann", "laptop")
    assert found.scopes == {Scope.JOBS_READ}
    assert secret not in stored(redis)
    assert token not in stored(redis)
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    for other in ("", secret, f"fp_{key_id}_", f"fp_{key_id}_{wrong}", f"{token}\n", f"{token}é"):
        assert access.find(other) is None


def test_who_writes_to_redis_cannot_make_a_key(access: Access, redis: Redis) -> None:
    """A key made under another pepper, as by somebody who has only the server, opens nothing."""
    token, _ = Access(redis, b"a guess").create("ann")
    assert access.find(token) is None


def test_a_tenant_has_two_keys_and_rotates_them(access: Access) -> None:
    first, made = access.create("ann")
    second, _ = access.create("ann")
    with pytest.raises(TooManyKeys, match="revoke one"):
        access.create("ann")
    assert access.find(first)
    access.revoke(made.id)
    assert access.find(first) is None
    assert access.find(second)
    third, _ = access.create("ann")
    assert access.find(third)
    with pytest.raises(KeyNotFound, match="keys list"):
        access.revoke(made.id)


def test_keys_are_listed_by_tenant(access: Access) -> None:
    assert access.list_keys() == []
    for tenant in ("bob", "ann", "bob"):
        access.create(tenant)
    assert [key.tenant for key in access.list_keys()] == ["ann", "bob", "bob"]
    assert [key.tenant for key in access.list_keys("bob")] == ["bob", "bob"]
    assert access.list_keys("nobody") == []


@pytest.mark.parametrize("tenant", ["", "a b", "a:b", "-a", "é", "x" * 65, "a\n"])
def test_a_tenants_name_is_checked(access: Access, tenant: str) -> None:
    with pytest.raises(InvalidTenant, match="1 to 64"):
        access.create(tenant)


def test_use_is_noted_once_a_minute(access: Access, redis: Redis) -> None:
    token, made = access.create("ann")
    assert made.used_at is None
    assert access.find(f"fp_{made.id}_{'0' * 64}") is None
    assert access.list_keys()[0].used_at is None
    access.find(token)
    first = access.list_keys()[0].used_at
    assert first is not None
    access.find(token)
    assert access.list_keys()[0].used_at == first
    redis.hset(f"framepack:key:{made.id}", "used", first - USED_STEP_MS)
    access.find(token)
    assert (access.list_keys()[0].used_at or 0) >= first


def test_a_scope_of_a_later_release_opens_nothing(access: Access, redis: Redis) -> None:
    token, made = access.create("ann")
    redis.hset(f"framepack:key:{made.id}", "scopes", "jobs:read planets:move")
    found = access.find(token)
    assert found is not None
    assert found.scopes == {Scope.JOBS_READ}
