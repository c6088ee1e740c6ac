"""Why a job can fail: the codes of a job's `error`, what each means and what helps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobProblem:
    """What all occurrences of a code share.

    Attributes:
        retryable: Whether the same request may succeed later.
        meaning: What happened, and the way out.
    """

    title: str
    retryable: bool
    meaning: str


JOB_PROBLEMS: dict[str, JobProblem] = {
    "worker_crashed": JobProblem(
        "The workers crashed",
        retryable=True,
        meaning="Several workers in a row died at the same task, so the job was stopped before it "
        "harmed others. Its clips so far can be played. Try again, or ask for less; the operator "
        "finds the crashes in the workers' logs.",
    ),
    "worker_error": JobProblem(
        "The worker failed",
        retryable=True,
        meaning="The same task failed several times for a reason nobody foresaw. Try again; the "
        "operator finds the reason in the workers' logs, under the job's id.",
    ),
    "invalid_record": JobProblem(
        "The job's record cannot be read",
        retryable=False,
        meaning="The stored job is damaged or of a form this version does not know. Submit it "
        "again.",
    ),
    "not_started_in_time": JobProblem(
        "The job waited too long",
        retryable=True,
        meaning="No worker had begun it within its ttl_seconds. Submit it again, or with a longer "
        "one; a dry run says how long the wait is now.",
    ),
    "timed_out": JobProblem(
        "The job worked too long",
        retryable=False,
        meaning="Workers had spent its timeout_seconds on it; waiting does not count. Submit it "
        "with a longer one, or a shorter video. Its clips so far can be played.",
    ),
    "task_timeout": JobProblem(
        "A task took too long",
        retryable=True,
        meaning="One section took longer than the service allows any task "
        "(FRAMEPACK_HARD_MAXIMUM_SECONDS). Ask for fewer steps or a smaller size.",
    ),
    "out_of_memory": JobProblem(
        "The worker ran out of memory",
        retryable=True,
        meaning="The device or the host had too little memory, several times. Ask for a smaller "
        "size or a schedule with less context; the operator may change the placement.",
    ),
    "no_space": JobProblem(
        "A disk is full",
        retryable=True,
        meaning="A worker's temporary folder or the storage had no space left, several times. Try "
        "again later; the operator must make room.",
    ),
    "storage_error": JobProblem(
        "The storage failed",
        retryable=True,
        meaning="What was made could not be stored, or what was stored could not be read, for "
        "minutes. Try again later.",
    ),
    "weights_error": JobProblem(
        "The models could not be loaded",
        retryable=True,
        meaning="The worker's model files are missing or damaged. The operator must repair them.",
    ),
    "media_error": JobProblem(
        "The video could not be written",
        retryable=True,
        meaning="The frames could not be encoded or joined. The workers' logs have the reason.",
    ),
}
"""By code. `invalid_request` may be a job's as well, where only a worker can tell."""

RETRIED = (
    "worker_error",
    "task_timeout",
    "out_of_memory",
    "no_space",
    "storage_error",
    "weights_error",
    "media_error",
)
"""Codes of the tasks that failed with their worker alive and are tried again."""
