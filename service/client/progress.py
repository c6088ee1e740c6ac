"""A job's progress for a person: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from service.contract.views import EventView, JobView

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressLine:
    """Shows events to a person. Without the package `rich` a terminal gets lines as well."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bars = _Bars(out) if out.isatty() and find_spec("rich") else None
        self._completed = 0
        self._total = 0

    def show(self, event: EventView) -> None:
        """Take one event into account, and tell."""
        if event.type == "snapshot":
            self._start_from(JobView.model_validate(event.data))
        elif event.type == "step":
            self._step(event)
        elif event.type == "section.completed":
            self._completed += 1
            self._tell(f"section {event.data['section'] + 1} can be played")
        elif event.type == "section.started":
            self._total = event.data.get("total_sections", self._total)
            self._tell(f"section {event.data['section'] + 1} started")
        elif event.type not in ("section.sampled", "preview"):
            self._tell(event.type)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.close()

    def _start_from(self, job: JobView) -> None:
        self._completed = job.progress.sections_completed
        self._total = job.plan.num_sections
        eta = "" if job.eta_seconds is None else f", about {job.eta_seconds:.0f} s left"
        place = "" if job.queue_position is None else f", place {job.queue_position} in the queue"
        self._tell(f"{job.status.value}{place}{eta}")

    def _step(self, event: EventView) -> None:
        if self._bars is not None:
            data = event.data
            self._bars.step(data["section"], data["step"], data["total_steps"])

    def _tell(self, text: str) -> None:
        if self._bars is not None:
            self._bars.tell(text, self._completed, self._total)
            return
        self._out.write(f"{self._completed}/{self._total} sections  {text}\n")
        self._out.flush()


class _Bars:
    """Two bars: sections of the video, steps of the section at work."""

    def __init__(self, out: TextIO) -> None:
        # Only a terminal pays for importing it.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=out),
        )
        self._sections = self._progress.add_task("sections", total=None, note="")
        self._steps = self._progress.add_task("steps", total=None, note="", visible=False)
        self._progress.start()

    def tell(self, text: str, completed: int, total: int) -> None:
        self._progress.update(self._sections, completed=completed, total=total or None, note=text)

    def step(self, section: int, step: int, total: int) -> None:
        note = f"section {section + 1}"
        self._progress.update(self._steps, completed=step, total=total, note=note, visible=True)

    def close(self) -> None:
        self._progress.stop()
