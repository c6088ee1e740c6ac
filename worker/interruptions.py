"""Why a task ends before its result: nobody's fault, so no failure of the job.

Interruption
+-- TaskCancelled   the job is being cancelled
+-- TaskDrained     this worker must stop and cannot wait for the task's end

`service.contract.errors.LeaseLost` is the third reason; there the task is not even ours to give
back. Raised only by `worker.lease.Lease.check`, between steps, never by a signal handler.
"""

from __future__ import annotations


class Interruption(Exception):  # noqa: N818 - an end, not an error
    """The task ends here and is given back unfinished."""


class TaskCancelled(Interruption):
    """The job is being cancelled."""


class TaskDrained(Interruption):
    """This worker must stop and cannot wait for the task's end."""


class TaskOverdue(Exception):  # noqa: N818
    """The task took longer than the hard maximum."""
