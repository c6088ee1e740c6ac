"""A rolling upgrade: an older commit's own code accepts and works beside this code, on one record.

What a record of another form means to its script is in tests/service/contract/test_upgrade.py.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.contract.job import SCHEMA_VERSION, JobStatus
from tests.e2e.conftest import REQUEST, Service
from tests.support.fleet import Fleet, frozen, wait_for

pytestmark = pytest.mark.slow

OLDER = "f66c3c991e48e72008559f5c8f2ed7f430073af8"
"""The last commit that knows only the first form of records (`SCHEMA_VERSION` 1)."""

ROOT = Path(__file__).parents[2]

ACCEPT_AND_WORK = """
import json, sys
from pathlib import Path
from service.contract.job import SCHEMA_VERSION
from tests.support.fleet import Fleet
from worker.__main__ import main
url, weights, folder, request = sys.argv[1:]
fleet = Fleet(url, Path(weights), Path(folder))
print(SCHEMA_VERSION, fleet.submit(**json.loads(request)), flush=True)
fleet.close()
sys.exit(main(["--lane", "render"]))
"""


def _older_code(folder: Path) -> Path:
    """The older commit's files; skips where the history is not at hand (a shallow clone)."""
    command = ["git", "-C", str(ROOT), "archive", OLDER]
    packed = subprocess.run(command, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"an upgrade from {OLDER[:7]} needs this repository's history")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@contextmanager
def _older_worker(service: Service, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Older code that accepts `REQUEST` and then serves the render lane; and that job's id."""
    fleet = service.fleet
    storage = fleet.settings.storage_url.removeprefix("file://")
    where = [fleet.settings.redis_url, str(service.weights), str(Path(storage).parent)]
    code = str(_older_code(folder))
    log = folder / "older.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", ACCEPT_AND_WORK, *where, json.dumps(REQUEST)],
            cwd=code,
            env={**fleet.environment, "PYTHONPATH": code},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_for(lambda: " serves " in log.read_text() or process.poll() is not None, 60.0)
            assert process.poll() is None, log.read_text()
            version, job_id = log.read_text().split()[:2]
            assert int(version) < SCHEMA_VERSION
            yield process, job_id
        finally:
            process.kill()


def test_two_versions_share_the_work_and_the_older_leaves_what_it_does_not_know(
    service: Service, undisturbed: bytes, tmp_path: Path
) -> None:
    fleet = service.fleet
    with frozen(service.render):
        ordinary = fleet.submit(seconds=0.4, steps=4)
        newer = fleet.submit(pictured=False, order="vanilla", seconds=1.2, steps=4)
        assert fleet.record.spec(newer).schema_version == SCHEMA_VERSION
        with _older_worker(service, tmp_path) as (older, begun):
            fleet.wait_for_step(begun, 1, 10)
            older.send_signal(signal.SIGTERM)
            assert older.wait(30) == 0
        assert _sampled(fleet, ordinary) == 1, "older code did not take what it knows"
        assert _sampled(fleet, begun) == 2
        assert fleet.record.get(newer).status is JobStatus.QUEUED

    fleet.bells.ring(fleet.record.sweep().ring)
    for job_id in (ordinary, begun, newer):
        assert fleet.wait_for_end(job_id).status is JobStatus.COMPLETED
    assert fleet.video(begun) == undisturbed


def _sampled(fleet: Fleet, job_id: str) -> int:
    return fleet.record.progress(job_id).sections_sampled
