"""A job's progress for a person: one line rewritten in place, or plain lines without a terminal."""

from __future__ import annotations

from typing import TextIO

from service.contract.views import EventView, JobView

BAR_WIDTH = 24


class ProgressLine:
    """Shows events to a person."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._completed = 0
        self._total = 0
        self._at_work = ""

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
            self._tell(f"section {event.data['section'] + 1} started")
        elif event.type != "section.sampled":
            self._tell(event.type)

    def close(self) -> None:
        """End the live line."""
        if self._live:
            self._out.write("\n")
            self._out.flush()

    def _start_from(self, job: JobView) -> None:
        self._completed = job.progress.sections_completed
        self._total = job.plan.num_sections
        eta = "" if job.eta_seconds is None else f", about {job.eta_seconds:.0f} s left"
        place = "" if job.queue_position is None else f", place {job.queue_position} in the queue"
        self._tell(f"{job.status.value}{place}{eta}")

    def _step(self, event: EventView) -> None:
        data = event.data
        self._at_work = (
            f"section {data['section'] + 1} of {data['total_sections']}, "
            f"step {data['step']} of {data['total_steps']}"
        )
        if self._live:
            self._tell(self._at_work)

    def _tell(self, text: str) -> None:
        filled = BAR_WIDTH * self._completed // max(1, self._total)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        line = f"[{bar}] {self._completed}/{self._total} sections  {text}"
        self._out.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._out.flush()
