"""What went wrong with a task, as the problem document its job may end with.

Details say what happened and what helps, never what the user wrote nor where anything lies: the
log has the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import torch

from framepack.errors import InvalidRequest, MediaError, WeightsError
from service.contract.errors import Problem, StorageError
from worker.interruptions import TaskOverdue


def problem_of(error: Exception) -> Problem:
    """The problem that an exception of a task stands for."""
    if isinstance(error, InvalidRequest):
        return Problem(
            code="invalid_request",
            title="The request cannot be served",
            detail=f"The field {error.field!r} has a value that this service cannot serve.",
            retryable=False,
        )
    if out_of_memory(error):
        return Problem(
            code="out_of_memory",
            title="The worker ran out of memory",
            detail="The device or the host had too little memory; try again or ask for less.",
            retryable=True,
        )
    if no_space(error):
        return Problem(
            code="no_space",
            title="A disk is full",
            detail="What was made could not be written; try again later.",
            retryable=True,
        )
    for kind, code, title, detail in _KNOWN:
        if isinstance(error, kind):
            return Problem(code=code, title=title, detail=detail, retryable=True)
    return Problem(
        code="worker_error",
        title="The worker failed",
        detail="An unexpected error ended the work on this job; the service's log has the reason.",
        retryable=True,
    )


_KNOWN: tuple[tuple[type[Exception], str, str, str], ...] = (
    (
        TaskOverdue,
        "task_timeout",
        "A task took too long",
        "One section took longer than this service allows; ask for fewer steps.",
    ),
    (
        StorageError,
        "storage_error",
        "The storage failed",
        "The storage could not be read or written for a while; try again later.",
    ),
    (
        WeightsError,
        "weights_error",
        "The models could not be loaded",
        "The worker's model files are missing or damaged; the operator must repair them.",
    ),
    (
        MediaError,
        "media_error",
        "The video could not be written",
        "The frames could not be encoded; the service's log has the reason.",
    ),
)


def device_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU had no memory left, so that placing less there helps."""
    return isinstance(error, torch.OutOfMemoryError)


def host_out_of_memory(error: BaseException) -> bool:
    """Whether the machine, or what this process may have of it, had no memory left."""
    return any(_no_memory(cause) for cause in _causes(error))


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


_NO_MEMORY = ("DefaultCPUAllocator", "can't start new thread", "unable to start watchdog thread")
"""What torch's allocator, threading and faulthandler say in a plain RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory left."""
    return host_out_of_memory(error) or device_out_of_memory(error)


def no_space(error: BaseException) -> bool:
    """Whether a disk of the worker's or of its storage is full, or a quota on it used up."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return any(getattr(cause, "errno", None) in full for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def unfit(error: BaseException) -> bool:
    """Whether this process should do nothing more.

    A CUDA context does not survive some errors. Nor can a process be trusted whose host had no
    memory: a thread that died while it started leaves others waiting for it, and oneDNN goes on to
    answer "could not create a primitive" when there is memory again.
    """
    return isinstance(error, torch.AcceleratorError) or host_out_of_memory(error)


def unexplained(error: BaseException) -> bool:
    """Whether it may be the process that is at fault and not the task: nobody knows."""
    return isinstance(error, RuntimeError) and problem_of(error).code == "worker_error"
