import signal
import subprocess
import sys

import pytest

from worker.faults import CrashPoint

PROGRAM = """
import sys
from worker.faults import CrashPoint
point = CrashPoint(sys.argv[1])
for section in (0, 1):
    for step in (1, 2):
        print(section, step, flush=True)
        point.reach("sample", section, f"step:{step}")
point.reach("encode", None, "claimed")
print("end")
"""


@pytest.mark.parametrize(
    ("place", "status", "reached"),
    [
        ("", 0, "0 1,0 2,1 1,1 2,end"),
        ("sample:0:step:2", -signal.SIGKILL, "0 1,0 2"),
        ("sample:0:step:2@SIGTERM", -signal.SIGTERM, "0 1,0 2"),
        ("encode:-:claimed", -signal.SIGKILL, "0 1,0 2,1 1,1 2"),
        ("decode:0:step:1", 0, "0 1,0 2,1 1,1 2,end"),
    ],
)
def test_a_process_falls_at_its_place_and_nowhere_else(
    place: str, status: int, reached: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, place], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert done.stdout.split("\n")[:-1] == reached.split(",")


def test_an_unknown_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="SIGNONE"):
        CrashPoint("sample:0:step:1@SIGNONE")
