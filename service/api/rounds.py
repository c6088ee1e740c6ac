"""What a gateway does again and again beside its requests, through any outage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import redis.exceptions

from service.contract.errors import StorageError

log = logging.getLogger(__name__)

ENDS = ("ok", "unavailable", "error")
"""How a round can end."""


@contextlib.asynccontextmanager
async def rounds(
    name: str, once: Callable[[], None], pause: float, note: Callable[[str], None]
) -> AsyncIterator[None]:
    """Call something in a thread again and again for the length of a with block.

    Args:
        name: Of what it does, for logs.
        once: One round.
        pause: Seconds between two.
        note: Told how each ended, one of `ENDS`.
    """

    async def run() -> None:
        while True:
            note(await asyncio.to_thread(_outcome, name, once))
            await asyncio.sleep(pause)

    task = asyncio.create_task(run(), name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _outcome(name: str, once: Callable[[], None]) -> str:
    try:
        once()
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, StorageError) as error:
        log.warning("could not %s: %s", name, type(error).__name__)
        return "unavailable"
    except Exception:  # the one loop that must never end
        log.exception("cannot %s", name)
        return "error"
    return "ok"
