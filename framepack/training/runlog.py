"""A run's figures as CSV, one row at a time, and its state, never half written."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Figures = Mapping[str, float | int | str]


class RunLog:
    """Appends rows to a CSV file whose columns are fixed by the first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, figures: Figures) -> None:
        """Append a row; floats with six digits.

        Raises:
            ValueError: The columns are not those the file began with.
        """
        row = {k: f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in figures.items()}
        known = self._columns()
        if known and known != list(row):
            raise ValueError(f"{self.path} has columns {known}, not {list(row)}")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if not known:
                writer.writeheader()
            writer.writerow(row)

    def drop_after(self, step: int) -> None:
        """Forget rows past a step: what a run did after the state it resumes from."""
        if not self._columns():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        kept = RunLog(self.path.with_suffix(".partial"))
        kept.path.unlink(missing_ok=True)
        for row in rows:
            kept.write(row)
        if rows:
            kept.path.replace(self.path)
        else:
            self.path.unlink()

    def _columns(self) -> list[str]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])


def save_state(
    path: Path, state: Mapping[str, Any], ready: Callable[[], None] = lambda: None
) -> None:
    """Write a run's state, replacing the last one at once, when others are ready to as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(dict(state), partial)
    ready()
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """A run's state, or None if there is none. Tensors and plain values only, no code."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
