"""`python -m worker --lane render|deliver`: one worker. `python -m worker supervise`: both lanes.

Settings come from the environment (``FRAMEPACK_*``); options given here go before them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from service.contract import logs
from service.contract.job import Lane
from worker.settings import WorkerSettings

SLEEPING_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""OpenMP threads that spin while they wait take the cores from the other lane's process: on a CPU
that costs a factor of three to six. Read when torch is first imported, so set before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker or the supervisor; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.command is None) == (options.lane is None):
        parser.error("give either --lane or the command supervise")
    for name, value in SLEEPING_THREADS.items():
        os.environ.setdefault(name, value)
    settings = _settings(options)
    if options.command == "supervise":
        return _supervise(settings)
    from worker.process import run_lane, tie_to_parent

    if options.parent is not None:
        tie_to_parent(options.parent)
    return run_lane(Lane(options.lane), settings)


def _supervise(settings: WorkerSettings) -> int:
    from worker.supervisor import Supervisor

    logs.configure(settings, "framepack-supervisor")
    commands = {lane.value: _lane_command(lane, settings, place) for place, lane in enumerate(Lane)}
    return Supervisor(commands, hopeless=frozenset({os.EX_CONFIG})).run()


def _lane_command(lane: Lane, settings: WorkerSettings, place: int) -> list[str]:
    command = [sys.executable, "-m", "worker", "--lane", lane, "--parent", str(os.getpid())]
    command += ["--device", settings.device, "--presets", ",".join(settings.presets)]
    if settings.metrics_port is not None:
        command += ["--metrics-port", str(settings.metrics_port + place)]
    return command


def _settings(options: argparse.Namespace) -> WorkerSettings:
    given: dict[str, Any] = {
        "device": options.device,
        "presets": options.presets,
        "metrics_port": options.metrics_port,
    }
    return WorkerSettings(**{name: value for name, value in given.items() if value is not None})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=["supervise"],
        help="run a render and a deliver process on one device and keep them running",
    )
    parser.add_argument("--lane", choices=[lane.value for lane in Lane], help="what to serve")
    parser.add_argument("--presets", help="what to keep loaded, with commas")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument(
        "--metrics-port", type=int, help="where to show metrics; deliver takes the next one"
    )
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
