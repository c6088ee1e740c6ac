"""What sharing between tenants does to those who wait, with real workers of one render lane.

    python -m bench fairness --json

* One short job beside twenty long ones of another tenant: its time from acceptance to video,
  against the same job on an idle service, and all that was before it, which first-come would cost.
* Equal jobs of one tenant, accepted at once: the mean of their times, against the same jobs each
  accepted when the one before had ended, added up as a line of them would wait.

The model is the tests' smallest, so a section takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import mean, median

from bench._common import emit
from framepack.models.tiny import build_folder
from service.contract.events import SECTION_SAMPLED
from tests.support.fleet import Fleet
from tests.support.valkey import Valkey

SECONDS_OF_A_SECTION = 1.2


@contextmanager
def service() -> Iterator[Fleet]:
    """A record, a storage, a render and a deliver worker."""
    with tempfile.TemporaryDirectory(prefix="framepack-bench-") as name:
        folder = Path(name)
        build_folder(folder / "nano", size="nano")
        (folder / "valkey").mkdir()
        with (
            Valkey(folder / "valkey") as server,
            Fleet(server.url, folder / "nano", folder) as fleet,
        ):
            supervisor, _ = fleet.supervise()
            yield fleet
            supervisor.signal(signal.SIGTERM)
            supervisor.wait()


class Line:
    """Submits jobs of whole sections and times them."""

    def __init__(self, fleet: Fleet, steps: int) -> None:
        self.fleet = fleet
        self._steps = steps
        self._seed = 0

    def submit(self, tenant: str, sections: int) -> str:
        """One job, unlike any other."""
        self._seed += 1
        seconds = SECONDS_OF_A_SECTION * sections
        return self.fleet.submit(tenant, seconds=seconds, steps=self._steps, seed=self._seed)

    def took(self, job_id: str) -> float:
        """Seconds from acceptance to video, once there is one."""
        job = self.fleet.wait_for_end(job_id, 600.0)
        if job.status != "completed" or job.finished_at is None:
            raise RuntimeError(f"a job ended as {job.status}")
        return (job.finished_at - job.created_at) / 1000

    def sampled(self, job_ids: Sequence[str]) -> list[int]:
        """When the sections of some jobs were sampled, in milliseconds."""
        events = (event for job_id in job_ids for event in self.fleet.events(job_id))
        return sorted(event.at for event in events if event.type == SECTION_SAMPLED)


def measure_short(line: Line, options: argparse.Namespace) -> dict[str, object]:
    """A short job of one tenant beside many long ones of another."""
    alone = [line.took(line.submit("one", options.short)) for _ in range(options.rounds)]
    beside, first_come = [], []
    for _ in range(options.rounds):
        many = [line.submit("many", options.long) for _ in range(options.jobs)]
        line.fleet.wait_for(lambda many=many: len(line.sampled(many)) >= 2)  # type: ignore[misc]
        beside.append(line.took(line.submit("one", options.short)))
        times = line.sampled(many)
        pace = (times[-1] - times[0]) / (len(times) - 1 + options.short) / 1000
        first_come.append(pace * (options.jobs * options.long - 2 + options.short))
        for job_id in many:
            line.fleet.record.cancel(job_id)
        for job_id in many:
            line.fleet.wait_for_end(job_id)
    return {
        "alone_seconds": round(median(alone), 2),
        "beside_long_jobs_seconds": round(median(beside), 2),
        "times_longer": round(median(beside) / median(alone), 2),
        "first_come_would_take_seconds": round(median(first_come), 1),
    }


def measure_equal(line: Line, options: argparse.Namespace) -> dict[str, object]:
    """Equal jobs of one tenant, against a line of them."""
    single = [line.took(line.submit("one", options.short)) for _ in range(options.equal)]
    at_once = [line.submit("one", options.short) for _ in range(options.equal)]
    shared = [line.took(job_id) for job_id in at_once]
    in_line = list(accumulate(single))
    return {
        "jobs": options.equal,
        "mean_seconds": round(mean(shared), 2),
        "first_come_mean_seconds": round(mean(in_line), 2),
        "ratio": round(mean(shared) / mean(in_line), 2),
        "in_order_of_acceptance": shared == sorted(shared),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench fairness", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20, help="long ones of the other tenant")
    parser.add_argument("--long", type=int, default=10, help="sections of each")
    parser.add_argument("--short", type=int, default=3, help="sections of a short one")
    parser.add_argument("--equal", type=int, default=8, help="equal jobs of one tenant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    with service() as fleet:
        line = Line(fleet, options.steps)
        line.took(line.submit("one", 1))  # the first one finds nothing warm
        found = {"short": measure_short(line, options), "equal": measure_equal(line, options)}
    emit("fairness", vars(options), found, as_json=options.json)
    return 0
