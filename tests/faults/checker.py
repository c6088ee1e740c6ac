"""Recount a chaos run from its ledger, the record and the storage, without its driver's help.

    python -m tests.faults.checker LEDGER

``FRAMEPACK_*`` settings say where record and storage are. Prints what is wrong, a line each, and
last one JSON line; the exit status is 1 if anything is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis import Redis

from service.contract import eventlog, events
from service.contract.connections import KEY_PREFIX, connect
from service.contract.errors import JobNotFound
from service.contract.job import Artifact, Event, Job
from service.contract.record import Record
from service.contract.settings import Settings
from service.contract.storage import Storage, open_storage
from tests.faults.ledger import Entry, read

COUNTED = {
    "kills": "kill",
    "freezes": "freeze",
    "redis_kills": "redis_kill",
    "storage_faults": "storage_fault",
    "clock_jumps": "clock_jump",
}
SECONDS_TO_SWEEP = 60.0
"""After a run, until whatever nothing refers to must be gone; several times the age it needs."""

WRONG = ("lost", "double", "unheard", "leaks", "wrong_bytes", "redone_sections", "orphans")


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        kind: One of `WRONG`.
        detail: What exactly.
    """

    kind: str
    detail: str


class Checker:
    """What is left of a run."""

    def __init__(self, ledger: Sequence[Entry], redis: Redis, storage: Storage) -> None:
        self.ledger, self.redis, self.storage = ledger, redis, storage
        self.record = Record(redis)
        self.accepted = {e["job"]: e["request"] for e in ledger if e["what"] == "acknowledged"}
        self.expected = {e["request"]: e["sha256"] for e in ledger if e["what"] == "reference"}

    def findings(self) -> Iterator[Finding]:
        """All that is wrong."""
        for job_id, request in self.accepted.items():
            yield from self._of_job(job_id, request)
        for entry in self._all("leak"):
            yield Finding("leaks", f"{entry['job']} gave its video while {entry['status']}")
        for job_id in self.accepted.keys() - {e["job"] for e in self._all("result")}:
            yield Finding("lost", f"{job_id}: its client heard of no end")
        for entry in self._all("result"):
            yield from self._of_hearer(entry)
            wanted = self.expected[self.accepted[entry["job"]]]
            if entry["status"] == "completed" and entry["sha256"] != wanted:
                yield Finding("wrong_bytes", f"{entry['job']}: its client got other bytes")
        yield from self.orphans()

    def counts(self) -> dict[str, int]:
        """What was done to the service, and how many tasks were begun again because of it."""
        return {
            "jobs": len(self.accepted),
            **{name: len(self._all(what)) for name, what in COUNTED.items()},
            "retries": sum(
                event.type == events.RETRYING
                for job_id in self.accepted
                for event in eventlog.read(self.redis, job_id)
            ),
        }

    def _all(self, what: str) -> list[Entry]:
        return [entry for entry in self.ledger if entry["what"] == what]

    def _of_job(self, job_id: str, request: int) -> Iterator[Finding]:
        try:
            job = self.record.get(job_id)
        except JobNotFound:
            yield Finding("lost", f"{job_id} was acknowledged and is not in the record")
            return
        cancelled = any(e["job"] == job_id for e in self._all("control"))
        wanted = ("completed", "cancelled") if cancelled else ("completed",)
        if job.status not in wanted:
            yield Finding("lost", f"{job_id} is {job.status}: {job.error}")
        told = eventlog.read(self.redis, job_id)
        yield from of_events(job_id, told)
        if job.status == "completed":
            yield from self._of_video(job, self.expected[request])

    def _of_video(self, job: Job, expected: str) -> Iterator[Finding]:
        assert job.video is not None
        found = hashlib.sha256(self.storage.get(job.video.key)).hexdigest()
        if found != expected or found != job.video.sha256:
            yield Finding("wrong_bytes", f"{job.id}: its stored video is not the undisturbed one")

    def _of_hearer(self, result: Entry) -> Iterator[Finding]:
        """Whoever listened heard every event once and in order, however often it had to come back.

        Not of a job that has no events: that it is lost is told already.
        """
        told = [event.sequence for event in eventlog.read(self.redis, result["job"])]
        if told and result["heard"] != told:
            yield Finding("unheard", f"{result['job']}: {result['heard']} of {told}")

    def orphans(self) -> Iterator[Finding]:
        """Objects that no record names: neither artifacts nor anything of a job that exists.

        What a fenced-off worker uploaded under a living job's prefix goes when the job goes.
        """
        for found in self.storage.list("jobs/"):
            job_id = found.key.split("/")[1]
            if not self.redis.exists(f"{KEY_PREFIX}job:{job_id}"):
                yield Finding("orphans", f"{found.key} belongs to no job")
        for job_id in self.accepted:
            for key in self._committed(job_id):
                if self.storage.head(key) is None:
                    yield Finding("lost", f"{key} is in the record and not in the storage")

    def _committed(self, job_id: str) -> list[str]:
        fields = cast(dict[str, str], self.redis.hgetall(f"{KEY_PREFIX}job:{job_id}"))
        named = (value for name, value in fields.items() if name.startswith("artifact:"))
        return [Artifact.model_validate_json(value).key for value in named]


def of_events(job_id: str, told: Sequence[Event]) -> Iterator[Finding]:
    """Sequence without gaps, one terminal event, at the end; no section made after its commit."""
    numbers = [event.sequence for event in told]
    if numbers != list(range(1, len(told) + 1)):
        yield Finding("double", f"{job_id}: events are numbered {numbers}")
    terminal = [event.type for event in told if event.type in events.TERMINAL]
    if len(terminal) != 1 or told[-1].type not in events.TERMINAL:
        yield Finding("double", f"{job_id}: ended as {terminal}, last {told[-1].type}")
    done: set[int] = set()
    for event in told:
        if event.type == events.SECTION_STARTED and event.data["section"] in done:
            yield Finding("redone_sections", f"{job_id}: section {event.data['section']} again")
        if event.type == events.SECTION_SAMPLED:
            if event.data["section"] in done:
                yield Finding("redone_sections", f"{job_id}: {event.data['section']} twice")
            done.add(event.data["section"])


def check(
    ledger: Path, settings: Settings, patience: float = 0.0
) -> tuple[list[Finding], dict[str, int]]:
    """Findings, and the counts that the last line shows.

    Args:
        ledger: Of the run.
        settings: Of the service, whose parts are still up.
        patience: Seconds in which gateways may still sweep what nothing refers to.
    """
    deadline = time.monotonic() + patience
    with connect(settings.redis_url) as redis:
        checker = Checker(read(ledger), redis, open_storage(settings.storage_url))
        while any(checker.orphans()) and time.monotonic() < deadline:
            time.sleep(1)
        findings = list(checker.findings())
        tally = Counter(finding.kind for finding in findings)
        return findings, {**checker.counts(), **{kind: tally[kind] for kind in WRONG}}


def main(ledger: str) -> int:
    """Check and print; returns the exit status."""
    findings, counts = check(Path(ledger), Settings(), patience=SECONDS_TO_SWEEP)
    for finding in findings:
        sys.stdout.write(f"{finding.kind}: {finding.detail}\n")
    sys.stdout.write(json.dumps(counts) + "\n")
    return int(any(counts[kind] for kind in WRONG))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
