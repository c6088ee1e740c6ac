"""The jobs that are followed, remembered: as accepted they never change, so one reading is enough.

Whether such a job is still there is for its event stream to say.
"""

from __future__ import annotations

from collections import OrderedDict

from service.contract.job import JobSpec

MOST_REMEMBERED = 4096


class FollowedJobs:
    """Specs of the jobs that were followed last."""

    def __init__(self) -> None:
        self._specs: OrderedDict[str, JobSpec] = OrderedDict()

    def known(self, job_id: str) -> JobSpec | None:
        """A job as accepted, if it is remembered."""
        return self._specs.get(job_id)

    def remember(self, spec: JobSpec) -> None:
        """Keep a job in mind; the one that came first goes."""
        self._specs[spec.id] = spec
        if len(self._specs) > MOST_REMEMBERED:
            self._specs.popitem(last=False)

    def forget(self, job_id: str) -> None:
        """The job is gone."""
        self._specs.pop(job_id, None)
