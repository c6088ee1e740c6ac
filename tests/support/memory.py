"""Taking memory away from a running worker, as a machine or a container does."""

from __future__ import annotations

import ctypes
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VARIABLE = "TEST_BLOCKS_FROM_THE_KERNEL"
"""In a worker's environment: the C library gives no block of this many bytes or more from what it
keeps. The smallest model could live on that for ever."""

_M_MMAP_THRESHOLD = -3
_CGROUPS = Path("/sys/fs/cgroup/memory")


def ask_the_kernel(num_bytes: int) -> None:
    """Get every block of so many bytes or more from the kernel, and give it back at once."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, num_bytes)


def refuse_memory(pid: int) -> None:
    """The kernel gives the process no more memory than it has: it is told so, and lives."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (has,) = (line.split()[1] for line in status if line.startswith("VmData:"))
    resource.prlimit(pid, resource.RLIMIT_DATA, (1024 * int(has), resource.RLIM_INFINITY))


@contextmanager
def group_without_memory() -> Iterator[Path]:
    """A group that the kernel gives some pages more: who of it wants more is killed.

    Write a process id to its `cgroup.procs`; what a process has already does not count.
    """
    own = Path("/proc/self/cgroup").read_text()
    names = [line.split(":", 2)[2].strip("/") for line in own.splitlines() if ":memory:" in line]
    if not names or not os.access(_CGROUPS / names[0], os.W_OK):
        pytest.skip("needs the right to make a memory cgroup (version 1)")
    group = Path(tempfile.mkdtemp(prefix="test-", dir=_CGROUPS / names[0]))
    try:
        (group / "memory.limit_in_bytes").write_text(str(2**16))
        yield group
    finally:
        group.rmdir()
