"""Whether the parts behind the gateway work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import redis.exceptions

from service.api.durability import UnsafeRedis
from service.contract.errors import StorageError

log = logging.getLogger(__name__)

SECONDS_TO_REMEMBER = 2.0


class Readiness:
    """Looks at each part, but no more often than every two seconds, however many ask."""

    def __init__(self, checks: Mapping[str, Callable[[], object]]) -> None:
        self._checks = checks
        self._lock = threading.Lock()
        self._found: dict[str, str | None] = {}
        self._looked_at = float("-inf")

    def look(self) -> dict[str, str | None]:
        """For each part, what is wrong with it, or None."""
        with self._lock:
            if time.monotonic() - self._looked_at > SECONDS_TO_REMEMBER:
                self._found = {name: _fault(check) for name, check in self._checks.items()}
                self._looked_at = time.monotonic()
            return self._found


def _fault(check: Callable[[], object]) -> str | None:
    try:
        check()
    except (redis.exceptions.RedisError, StorageError, UnsafeRedis) as error:
        log.warning("not ready: %s", error)
        # The class tells enough; the message may name hosts.
        return type(error).__name__
    return None
