"""Places where a worker can be told to die, so that recovery is tested at exactly that place.

A place is ``{task kind}:{section or -}:{where}``: ``sample:1:step:2``, ``decode:0:uploaded``,
``encode:-:claimed``. The death is SIGKILL: no handler, no flush, no goodbye.
"""

from __future__ import annotations

import os
import signal


class CrashPoint:
    """The one place where this process dies; "" is nowhere.

    Args:
        place: As in the setting ``FRAMEPACK_CRASH_POINT``.
    """

    def __init__(self, place: str = "") -> None:
        self._place = place

    def reach(self, kind: str, section: int | None, where: str) -> None:
        """Die here if here is the place."""
        if self._place and self._place == f"{kind}:{'-' if section is None else section}:{where}":
            os.kill(os.getpid(), signal.SIGKILL)
