"""A Lua script made of several files, called by the name of one of its transitions.

The files are joined in order, so that scripts share what all transitions stand on: the key names
and the server's clock of ``record_base.lua``.
"""

from __future__ import annotations

import json
from functools import cached_property
from importlib.resources import files
from typing import Any

from redis import Redis


class Script:
    """Transitions that change the server's state in one step each.

    Args:
        redis: Where it runs.
        names: Files of `service.contract`, in the order in which they are joined.
    """

    def __init__(self, redis: Redis, *names: str) -> None:
        self._redis = redis
        self._names = names

    def call(self, transition: str, **arguments: Any) -> dict[str, Any]:
        """Run one transition; raises what redis-py raises."""
        answer: dict[str, Any] = json.loads(self._script(args=[transition, json.dumps(arguments)]))
        return answer

    @cached_property
    def _script(self) -> Any:
        folder = files("service.contract")
        parts = [folder.joinpath(name).read_text(encoding="utf-8") for name in self._names]
        return self._redis.register_script("".join(parts))
