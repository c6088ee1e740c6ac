"""`python -m service keys`: make, list and revoke API keys; a tenant's limits and its usage.

Works on the record that ``FRAMEPACK_*`` names, or with ``--data`` on that of a running `up`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from service.contract.access import Access, ApiKey, Scope
from service.contract.connections import connect
from service.contract.errors import ContractError
from service.contract.limits import Tenants
from service.contract.settings import Settings

_LIMITS = {
    "submissions": "jobs submitted a minute",
    "jobs": "jobs that have not ended",
    "gpu_seconds": "estimated seconds of one GPU that its jobs may still need",
}
"""The limits a tenant may have of its own; each is a number, 0 for none, or `default`."""

Administer = Callable[["Office", argparse.Namespace], None]


class Office:
    """Where keys are administered: the parts a command needs, and how it answers."""

    def __init__(self, redis: Redis, settings: Settings, *, as_json: bool) -> None:
        self.redis = redis
        self.settings = settings
        self.access = Access(redis, settings.key_pepper.get_secret_value().encode())
        self._as_json = as_json

    def answer(self, document: Mapping[str, Any], *lines: str) -> None:
        """Write a document for programs, or the same as lines for people."""
        text = json.dumps(document) if self._as_json else "\n".join(lines)
        if text:
            sys.stdout.write(f"{text}\n")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `keys` to the service's commands."""
    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    create = _action(actions, "create", _create, "make a key; it is shown this once")
    create.add_argument("tenant", metavar="TENANT", help="whom it is for")
    create.add_argument("--label", default="", help="a note, shown in lists")
    scopes = [scope.value for scope in Scope]
    create.add_argument(
        "--scope", action="append", choices=scopes, help="repeatable; default: all of them"
    )
    listing = _action(actions, "list", _list, "show all keys, or a tenant's")
    listing.add_argument("tenant", metavar="TENANT", nargs="?", help="only this tenant's")
    revoke = _action(actions, "revoke", _revoke, "make a key worthless within seconds")
    revoke.add_argument("key", metavar="ID", help="from the list: the middle part of a key")
    limits = _action(actions, "limits", _limits, "show a tenant's limits, or set some for it alone")
    limits.add_argument("tenant", metavar="TENANT", help="whose")
    for name, text in _LIMITS.items():
        limits.add_argument(f"--{name.replace('_', '-')}", type=_limit, metavar="N", help=text)
    usage = _action(actions, "usage", _usage, "show what a tenant has had")
    usage.add_argument("tenant", metavar="TENANT", help="whose")
    usage.add_argument(
        "--days", type=int, default=30, help="today and the days before, UTC (%(default)s)"
    )


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    administer: Administer,
    text: str,
) -> argparse.ArgumentParser:
    made = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
    made.add_argument("--data", type=Path, help="data folder of a running `up`")
    made.add_argument("--json", action="store_true", help="JSON on standard output")
    made.set_defaults(run=lambda options: _run(administer, options))
    return made


def _run(administer: Administer, options: argparse.Namespace) -> int:
    try:
        with _office(options) as office:
            administer(office, options)
    except (ContractError, RedisError, OSError) as error:
        reason = str(error)
        if isinstance(error, RedisError):
            reason = f"the record cannot be reached ({type(error).__name__}); is Redis running?"
        sys.stderr.write(f"keys: {reason}\n")
        return 1
    return 0


@contextmanager
def _office(options: argparse.Namespace) -> Iterator[Office]:
    settings = Settings() if options.data is None else settings_of(options.data)
    with connect(settings.redis_url, retries=1) as redis:
        yield Office(redis, settings, as_json=options.json)


def settings_of(data: Path) -> Settings:
    """Of the service that `up` runs on a data folder."""
    path = data / "environment"
    if not path.exists():
        raise FileNotFoundError(f"{data} is not the data folder of a running `up`")
    pairs = (line.split("=", 1) for line in path.read_text().splitlines())
    return Settings(**{name.removeprefix("FRAMEPACK_").lower(): value for name, value in pairs})  # type: ignore[arg-type]


def _create(office: Office, options: argparse.Namespace) -> None:
    scopes = [Scope(word) for word in options.scope or list(Scope)]
    token, key = office.access.create(options.tenant, scopes, options.label)
    note = "Keep it: it is stored only as a hash and cannot be shown again."
    sys.stderr.write("" if options.json else f"{note}\n")
    office.answer({"key": token, **_document(key)}, token)


def _list(office: Office, options: argparse.Namespace) -> None:
    keys = office.access.list_keys(options.tenant)
    office.answer({"keys": [_document(key) for key in keys]}, *map(_line, keys))


def _revoke(office: Office, options: argparse.Namespace) -> None:
    office.access.revoke(options.key)
    office.answer({"revoked": options.key}, f"revoked {options.key}")


def _limits(office: Office, options: argparse.Namespace) -> None:
    tenants, deployment = Tenants(office.redis), office.settings.tenant_limits()
    given = {name: getattr(options, name) for name in _LIMITS}
    changes = {name: found[0] for name, found in given.items() if found is not None}
    tenants.set_limits(options.tenant, changes)
    limits = asdict(tenants.limits(options.tenant, deployment))
    lines = [f"{name.replace('_', '-')}  {limits[name] or 'none'}" for name in _LIMITS]
    office.answer({"tenant": options.tenant, "limits": limits}, *lines)


def _limit(text: str) -> tuple[int | None]:
    """A limit as it is written, in a tuple, as None means something."""
    if text == "default":
        return (None,)
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("write a number, 0 for no limit, or default")
    return (int(text),)


def _usage(office: Office, options: argparse.Namespace) -> None:
    found = Tenants(office.redis).usage(options.tenant, options.days)
    gpu_seconds = round(found.pop("gpu_ms") / 1000, 1)
    usage = {**found, "gpu_seconds": gpu_seconds}
    document = {"tenant": options.tenant, "days": options.days, "usage": usage}
    office.answer(document, *(f"{name}  {value}" for name, value in usage.items()))


def _document(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "label": key.label,
        "created_at": _utc(key.created_at),
        "last_used_at": None if key.used_at is None else _utc(key.used_at),
    }


def _line(key: ApiKey) -> str:
    used = "never used" if key.used_at is None else f"used {_utc(key.used_at)}"
    words = [key.id, key.tenant, ",".join(sorted(key.scopes)), f"made {_utc(key.created_at)}", used]
    return "  ".join([*words, key.label] if key.label else words)


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat().replace("+00:00", "Z")
