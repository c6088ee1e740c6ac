"""A task as a worker holds it: the unit that is claimed, leased, committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from service.contract.job import Artifact, JobSpec, Lane

TaskKind = Literal["encode", "sample", "decode", "finish"]


@dataclass(frozen=True)
class WorkerIdentity:
    """Who claims.

    Attributes:
        name: Unique to the process.
        lane: The lane it serves.
        fingerprints: Preset to the engine fingerprint it would run it with.
    """

    name: str
    lane: Lane
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """A claimed task.

    Attributes:
        job_id: Of the job.
        lane: Which half of it.
        number: Place in the lane.
        fence: Fencing number of this claim.
        crashes: Crashes of earlier attempts at this task.
        spec: The job as accepted.
        artifacts: Committed so far, by ``{lane}:{number}``.
        leaves_more: Whether the same worker could have had another one: there is work for two.
    """

    job_id: str
    lane: Lane
    number: int
    fence: int
    crashes: int
    spec: JobSpec = field(repr=False)
    artifacts: Mapping[str, Artifact] = field(repr=False)
    leaves_more: bool = False

    @property
    def kind(self) -> TaskKind:
        """What there is to do."""
        if self.lane is Lane.RENDER:
            return "encode" if self.number == 0 else "sample"
        return "finish" if self.number == self.spec.num_sections else "decode"

    @property
    def section(self) -> int | None:
        """The section it belongs to, by order of sampling."""
        if self.kind == "sample":
            return self.number - 1
        return self.number if self.kind == "decode" else None

    @property
    def claim(self) -> dict[str, Any]:
        """How the script knows this claim."""
        return {"id": self.job_id, "lane": self.lane, "fence": self.fence}


class Signal(StrEnum):
    """What a worker should do after it reported."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    PAUSE = "pause"
