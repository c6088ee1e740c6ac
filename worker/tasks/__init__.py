"""The one function a bell may call, and what it sets off: one module a kind of task.

RQ imports this module by name and calls `answer` in the worker's own process; the process has
put its runner here before it listened to any queue.
"""

from __future__ import annotations

from collections.abc import Callable

_answers: dict[str, Callable[[], None]] = {}


def answers(lane: str, function: Callable[[], None]) -> None:
    """Set what this process does when a lane's bell rings."""
    _answers[lane] = function


def answer(lane: str) -> None:
    """A bell rang: the lane may have work. A bell of a lane not served here means nothing."""
    function = _answers.get(lane)
    if function is not None:
        function()
