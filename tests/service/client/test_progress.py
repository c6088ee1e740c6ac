"""What a person at a terminal sees of a job."""

import io
import re

import pytest

from service.api.schemas import JOB_EXAMPLE
from service.client.progress import ProgressLine
from service.contract.views import EventView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def rows(self) -> list[str]:
        """What the bars said last, without colours and cursor movements."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [row.strip() for row in re.split(r"[\r\n]+", plain) if row.strip()][-2:]


def event(kind: str, **data: object) -> EventView:
    return EventView(job_id="x", type=kind, data=data)


def test_a_terminal_shows_bars_of_sections_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show(EventView(job_id="x", type="snapshot", data=JOB_EXAMPLE))
    line.show(event("step", section=2, step=9, total_steps=16, total_sections=4))
    line.show(event("section.completed", section=1))
    line.close()
    sections, steps = terminal.rows()
    assert sections.startswith("sections")
    assert "2/4" in sections
    assert sections.endswith("section 2 can be played")
    assert "9/16" in steps
    assert steps.endswith("section 3")


def test_without_a_terminal_there_are_lines_and_no_steps() -> None:
    out = io.StringIO()
    line = ProgressLine(out)
    line.show(EventView(job_id="x", type="snapshot", data=JOB_EXAMPLE))
    line.show(event("step", section=2, step=9, total_steps=16, total_sections=4))
    line.show(event("section.started", section=3))
    line.close()
    assert out.getvalue().splitlines() == [
        "1/4 sections  running, about 22 s left",
        "1/4 sections  section 4 started",
    ]
