"""`python -m tests.faults --seconds 600 --seed 7`: a chaos run, then the checker's word on it.

The ledger and all logs stay in the folder. The last line is the checker's JSON.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.faults.chaos import Chaos, Run
from tests.faults.ledger import Ledger
from tests.faults.stack import ServiceStack


def main() -> int:
    """Run; returns the checker's exit status, or 2 if jobs did not end."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults")
    parser.add_argument("--seed", type=int, default=0, help="of everything left to chance")
    parser.add_argument("--folder", type=Path, help="for ledger, logs and data; must not exist")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)  # so that no process is left behind
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"), "run")
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.ndjson")
    status = 0
    with ServiceStack(folder / "service") as stack:
        try:
            Run(Chaos(options.seconds, options.seed), stack, ledger)()
        except TimeoutError as error:
            sys.stdout.write(f"{error}; ledger and logs are in {folder}\n")
            status = 2
        checked = subprocess.run(
            [sys.executable, "-m", "tests.faults.checker", str(ledger.path)],
            check=False,
            env={**os.environ, **stack.environment(through_proxy=False)},
        )
    return status or checked.returncode


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
