"""The process that decodes pictures: what it could reach, and that it ends in time."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.api.images import ImageDecoders, ImageRefused
from tests.hostile.pictures import many_scans
from tests.support.processes import alive, children_of, wait_for

SECONDS = 1.5


@contextmanager
def decoding(body: bytes) -> Iterator[int]:
    """The process at a picture that takes too long, while it does."""
    with ImageDecoders(limit=1, seconds=SECONDS) as decoders, ThreadPoolExecutor(1) as pool:
        assert decoders._server is not None
        server = decoders._server.process.pid
        answer = pool.submit(decoders.decode, body, "a tenant")
        wait_for(lambda: children_of(server))
        (child,) = children_of(server)
        yield child
        with pytest.raises(ImageRefused, match="too long"):
            answer.result()
        # Its own alarm ends it, though nobody listens any more.
        wait_for(lambda: not alive(child), seconds=10)


def test_a_decoder_has_nothing_and_ends_in_time() -> None:
    with decoding(many_scans()) as child:
        proc = Path(f"/proc/{child}")
        # Limits are set first of all, before anything of the picture is read.
        wait_for(lambda: _limits(proc)["Max file size"] == "0")
        limits = _limits(proc)
        assert limits["Max address space"] == str(1 << 30)
        assert limits["Max cpu time"] == "10"
        assert limits["Max core file size"] == "0"
        assert (proc / "environ").read_bytes() == b""
        opened = [os.readlink(link) for link in (proc / "fd").iterdir()]
        assert all(name.startswith("socket:") or name == "/dev/null" for name in opened), opened


def _limits(proc: Path) -> dict[str, str]:
    """Soft limits by name."""
    lines = (proc / "limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:47].strip() for line in lines}
