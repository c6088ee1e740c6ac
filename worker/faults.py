"""Places where a worker can be told to fall, so that recovery is tested at exactly that place.

A place is ``{task kind}:{section or -}:{where}``: ``sample:1:step:2``, ``decode:0:uploaded``,
``encode:-:claimed``. The process sends itself SIGKILL there, which no handler sees; a place that
ends in ``@SIGSTOP`` freezes it instead, as a machine that swaps or a paused container would.
"""

from __future__ import annotations

import os
import signal


class CrashPoint:
    """The one place where this process falls; "" is nowhere.

    Args:
        setting: A place, and perhaps the name of a signal after an @.

    Raises:
        ValueError: There is no such signal.
    """

    def __init__(self, setting: str = "") -> None:
        self._place, _, name = setting.partition("@")
        try:
            self._signal = signal.Signals[name or "SIGKILL"]
        except KeyError:
            raise ValueError(f"there is no signal {name!r}") from None

    def reach(self, kind: str, section: int | None, where: str) -> None:
        """Fall here if here is the place."""
        if self._place and self._place == f"{kind}:{'-' if section is None else section}:{where}":
            os.kill(os.getpid(), self._signal)
