"""`python -m service sweep`: delete what is stored and no longer needed, now.

Gateways do the same by themselves; this is for whoever wants to look first, wants room at once, or
has to say that a storage belongs to a new record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from redis.exceptions import RedisError

from service.contract.connections import connect
from service.contract.errors import ContractError
from service.contract.settings import Settings


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `sweep` to the service's commands."""
    text = "delete stored files of expired jobs, and old ones that no job refers to"
    sweep = commands.add_parser("sweep", help=text, description=f"{text.capitalize()}.")
    sweep.add_argument("--data", type=Path, help="data folder of a running `up`")
    sweep.add_argument("--dry-run", action="store_true", help="only show what no job refers to")
    sweep.add_argument(
        "--adopt",
        action="store_true",
        help="say that the storage belongs to this Redis from now on; what it does not know of is "
        "then deleted when it is older than FRAMEPACK_SWEEP_HOURS",
    )
    sweep.add_argument("--json", action="store_true", help="JSON on standard output")
    sweep.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Sweep; returns the exit status."""
    from service.keys import settings_of

    try:
        settings = Settings() if options.data is None else settings_of(options.data)
        _sweep(settings, options)
    except (ContractError, RedisError, OSError) as error:
        reason = str(error)
        if isinstance(error, RedisError):
            reason = f"the record cannot be reached ({type(error).__name__}); is Redis running?"
        sys.stderr.write(f"sweep: {reason}\n")
        return 1
    return 0


def _sweep(settings: Settings, options: argparse.Namespace) -> None:
    from service.api.cleaning import Cleaner
    from service.contract.keeping import Keeping
    from service.contract.storage import open_storage

    storage = open_storage(settings.storage_url, settings.link_signing())
    objects: Counter[str] = Counter()
    size: Counter[str] = Counter()
    with connect(settings.redis_url, retries=1) as redis:
        cleaner = Cleaner(Keeping(redis), storage, 3600 * settings.sweep_hours)
        cleaner.require_ownership(adopt=options.adopt)
        found = [] if options.dry_run else [*cleaner.due(), *cleaner.unfinished()]
        for deleted in [*found, *cleaner.strays(dry_run=options.dry_run)]:
            objects[deleted.reason] += 1
            size[deleted.reason] += deleted.size_bytes
    if options.json:
        document = {"dry_run": options.dry_run, "objects": objects, "bytes": size}
        sys.stdout.write(f"{json.dumps(document)}\n")
        return
    verb = "would delete" if options.dry_run else "deleted"
    lines = [f"{verb} {objects[each]} {each}, {size[each]} bytes" for each in sorted(objects)]
    sys.stdout.write("\n".join(lines or [f"{verb} nothing"]) + "\n")
