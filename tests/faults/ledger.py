"""What a chaos run did and was told: one JSON object a line, written at once.

| what | fields |
|---|---|
| reference | request, sha256: of the undisturbed video |
| acknowledged | job, request: the client has its 202 |
| control | job, action: a client cancelled it |
| kill, freeze | role, pid; seconds of a freeze |
| redis_kill | pid, seconds: away for so long |
| storage_fault | method, fault |
| clock_jump | role, pid, ahead: seconds |
| leak | job, status: the video was served while the job had not completed |
| result | job, status, sha256: what the client fetched in the end; heard: numbers of the events |
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]


class Ledger:
    """An NDJSON file that several threads append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.touch()

    def note(self, what: str, **fields: Any) -> None:
        """Append an entry, with the time."""
        line = json.dumps({"at": round(time.time(), 3), "what": what, **fields})
        with self._lock, self.path.open("a") as file:
            file.write(line + "\n")


def read(path: Path) -> list[Entry]:
    """All entries."""
    return [json.loads(line) for line in path.read_text().splitlines()]
