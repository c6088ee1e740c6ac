"""A short chaos run finds nothing wrong; the checker finds what is then put there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.contract import events
from service.contract.connections import KEY_PREFIX, connect
from service.contract.record import Record
from service.contract.settings import Settings
from service.contract.storage import open_storage
from tests.faults.chaos import Chaos, Run
from tests.faults.checker import COUNTED, SECONDS_TO_SWEEP, WRONG, check
from tests.faults.ledger import Ledger, read
from tests.faults.stack import ServiceStack

pytestmark = pytest.mark.slow

SEED, SECONDS = 7410, 15


@dataclass(frozen=True)
class Done:
    """A run that is over, its servers still up."""

    ledger: Path
    settings: Settings

    def wrong(self) -> Counter[str]:
        findings, _ = check(self.ledger, self.settings)
        return Counter(finding.kind for finding in findings)

    def completed(self) -> str:
        """Some job that has a video."""
        results = [e for e in read(self.ledger) if e["what"] == "result"]
        return str(next(e["job"] for e in results if e["status"] == "completed"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("chaos")
    ledger = Ledger(folder / "ledger.ndjson")
    with pytest.MonkeyPatch.context() as patch, ServiceStack(folder / "service") as stack:
        Run(Chaos(SECONDS, SEED), stack, ledger)()
        for name, value in stack.environment(through_proxy=False).items():
            patch.setenv(name, value)
        yield Done(ledger.path, Settings())


@pytest.mark.timeout(400)
def test_nothing_accepted_is_lost_or_made_twice(done: Done) -> None:
    findings, counts = check(done.ledger, done.settings, patience=SECONDS_TO_SWEEP)
    assert findings == []
    assert counts["jobs"] >= 4
    assert counts["kills"] >= 2  # a worker, the gateway
    assert min(counts[kind] for kind in COUNTED) >= 1
    assert all(counts[kind] == 0 for kind in WRONG)


def test_the_checker_sees_what_must_not_be(done: Done) -> None:
    """Each wrong is put there by hand, so the clean bill above means something."""
    job, wrongs = done.completed(), done.wrong()
    key = f"{KEY_PREFIX}job:{job}"
    with connect(done.settings.redis_url) as redis:
        storage = open_storage(done.settings.storage_url)
        storage.put("jobs/nobody/image.png", b"?", "image/png")
        assert done.wrong() == wrongs + Counter(orphans=1)
        storage.delete("jobs/nobody/image.png")

        stream = f"{key}:events"
        assert redis.exists(stream)
        told = redis.xrevrange(stream, count=1)
        assert isinstance(told, list)
        (last, fields) = told[0]
        following = int(str(last).partition("-")[0]) + 1
        redis.xadd(stream, fields, id=f"{following}-0")
        wrongs += Counter(double=1, unheard=1)
        assert done.wrong() == wrongs

        again = {**fields, "type": events.SECTION_SAMPLED, "data": '{"section": 0}'}
        redis.xadd(stream, again, id=f"{following + 1}-0")
        wrongs["redone_sections"] += 1
        assert done.wrong() == wrongs

        video = Record(redis).get(job).video
        assert video is not None
        storage.put(video.key, b"other", "video/mp4")
        wrongs["wrong_bytes"] += 1
        assert done.wrong() == wrongs

        redis.delete(key)
        assert done.wrong()["lost"] == 1

        results = [line for line in done.ledger.read_text().splitlines() if '"result"' in line]
        assert len(results) >= 4
        told = done.ledger.read_text()
        done.ledger.write_text(told.replace(results[0] + "\n", ""))
        assert done.wrong()["lost"] == 2
