"""What `up` keeps in its data folder for the next start and for people: secrets and a ready key.

Every file here is readable by its owner only.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from service.contract.access import Access
from service.contract.connections import connect
from service.contract.errors import TooManyKeys
from service.up.children import CannotRun
from service.up.parts import Places

TENANT = "default"
ENVIRONMENT = "environment"
"""Name of the file that tells other commands how to reach the running service's record."""


def secret(path: Path) -> str:
    """A secret that stays the same from start to start."""
    if not path.exists():
        _write(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def ready_key(data: Path, places: Places) -> str:
    """The API key that was made at the first start, or a new one if it was revoked since.

    Raises:
        CannotRun: The key's file is gone and the tenant may have no other.
    """
    path = data / "api-key"
    with connect(places.redis_url) as redis:
        access = Access(redis, places.key_pepper.encode())
        if path.exists() and access.find(path.read_text().strip()):
            return path.read_text().strip()
        try:
            token, _ = access.create(TENANT, label="made by up")
        except TooManyKeys:
            raise CannotRun(_too_many(access, path)) from None
    _write(path, token)
    return token


def _too_many(access: Access, path: Path) -> str:
    ids = " and ".join(key.id for key in access.list_keys(TENANT))
    return (
        f"{path} holds no key that works, and the tenant {TENANT} has the two keys {ids}: "
        "put one of them there, or start with --open and revoke one"
    )


def tell_where(data: Path, places: Places) -> None:
    """Let `keys --data` find the record of the service that runs on this folder."""
    lines = {
        "FRAMEPACK_REDIS_URL": places.redis_url,
        "FRAMEPACK_KEY_PEPPER": places.key_pepper,
    }
    _write(data / ENVIRONMENT, "".join(f"{name}={value}\n" for name, value in lines.items()))


def _write(path: Path, text: str) -> None:
    """Put a file in place whole, never readable by others."""
    half = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    half.replace(path)
