"""What a person at a terminal sees of a job."""

import io

from service.api.schemas import JOB_EXAMPLE
from service.client.progress import ProgressLine
from service.contract.views import EventView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def line(self) -> str:
        return self.getvalue().rpartition("\r\x1b[K")[2]


def event(kind: str, **data: object) -> EventView:
    return EventView(job_id="x", type=kind, data=data)


def test_one_line_is_rewritten_in_place() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.show(EventView(job_id="x", type="snapshot", data=JOB_EXAMPLE))
    assert terminal.line() == f"[{'#' * 6}{'.' * 18}] 1/4 sections  running, about 22 s left"
    line.show(event("step", section=2, step=9, total_steps=16, total_sections=4))
    assert terminal.line().endswith("1/4 sections  section 3 of 4, step 9 of 16")
    line.show(event("section.completed", section=1))
    assert terminal.line() == f"[{'#' * 12}{'.' * 12}] 2/4 sections  section 2 can be played"
    line.close()
    assert terminal.getvalue().count("\n") == 1


def test_without_a_terminal_there_are_lines_and_no_steps() -> None:
    out = io.StringIO()
    line = ProgressLine(out)
    line.show(EventView(job_id="x", type="snapshot", data=JOB_EXAMPLE))
    line.show(event("step", section=2, step=9, total_steps=16, total_sections=4))
    line.show(event("section.started", section=3))
    line.close()
    assert [text.partition("  ")[2] for text in out.getvalue().splitlines()] == [
        "running, about 22 s left",
        "section 4 started",
    ]
