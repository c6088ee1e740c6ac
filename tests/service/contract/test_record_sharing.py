"""Whose turn it is: fair sharing between tenants, classes, presets and engines."""

from __future__ import annotations

import pytest
from redis import Redis

from service.contract.job import SCHEMA_VERSION, Lane
from service.contract.record import Record, RecordPolicy
from tests.support.jobs import PRESET, Claimer, do_all, make_artifact, make_spec


@pytest.fixture
def record(redis: Redis) -> Record:
    return Record(redis, RecordPolicy(lease_ms=60_000, backoff_ms=(0,)))


def work(record: Record, rounds: int) -> list[str]:
    """Let both lanes do a number of tasks; the tenants whose sections were sampled, in order."""
    render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
    sampled = []
    for _ in range(rounds):
        task = render.do_one()
        if task is not None and task.kind == "sample":
            sampled.append(task.spec.tenant)
        deliver.do_one()
    return sampled


class TestSharing:
    def shares(self, record: Record, few: str, many: str) -> float:
        """Share of the sections that a tenant with one job gets while it has work."""
        for _ in range(20):
            record.submit(make_spec(many, sections=5))
        alone = make_spec(few, sections=12)
        record.submit(alone)
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        sampled: list[str] = []
        while record.get(alone.id).sections_sampled < alone.num_sections:
            task = render.do_one()
            if task is not None and task.kind == "sample":
                sampled.append(task.spec.tenant)
            deliver.do_one()
        return sampled.count(few) / len(sampled)

    @pytest.mark.parametrize(("few", "many"), [("a", "b"), ("b", "a")])
    def test_one_job_beside_twenty_of_another_tenant(
        self, record: Record, few: str, many: str
    ) -> None:
        assert self.shares(record, few, many) >= 0.45

    def test_within_a_tenant_first_come_first_served(self, record: Record) -> None:
        specs = [make_spec(sections=2) for _ in range(3)]
        for spec in specs:
            record.submit(spec)
        ended = [task.job_id for task in do_all(record) if task.kind == "finish"]
        assert ended == [spec.id for spec in specs]

    def test_work_is_counted_by_its_cost(self, record: Record) -> None:
        cheap = make_spec("cheap", sections=30, section_cost=1.0)
        dear = make_spec("dear", sections=30, section_cost=3.0)
        for spec in (cheap, dear):
            record.submit(spec)
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        for _ in range(34):
            render.do_one()
            deliver.do_one()
        ratio = record.get(cheap.id).sections_sampled / record.get(dear.id).sections_sampled
        assert 2.5 < ratio < 3.5

    def test_idleness_earns_next_to_nothing(self, record: Record) -> None:
        busy = make_spec("busy", sections=60)
        record.submit(busy)
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        for _ in range(30):
            render.do_one()
            deliver.do_one()
        late = make_spec("late", sections=60)
        record.submit(late)
        before = record.get(busy.id).sections_sampled
        for _ in range(20):
            render.do_one()
            deliver.do_one()
        assert record.get(busy.id).sections_sampled - before >= 7

    def test_a_higher_class_goes_first(self, record: Record) -> None:
        for priority in ("low", "normal", "high"):
            record.submit(make_spec(priority, sections=1, priority=priority))
        ended = [task.spec.priority for task in do_all(record) if task.kind == "finish"]
        assert ended == ["high", "normal", "low"]

    def test_queue_positions_tell_who_is_next(self, record: Record) -> None:
        specs = [make_spec(tenant) for tenant in ("a", "a", "b", "a")]
        for spec in specs:
            record.submit(spec)
        positions = [record.queue_position(spec.id) for spec in specs]
        assert positions == [1, 3, 2, 4]
        assert Claimer(record).must_claim().job_id == specs[0].id
        assert record.queue_position(specs[0].id) is None


class TestHistoryDoesNotDecide:
    """Work done long ago, or never, is no reason to let anybody wait."""

    def test_many_jobs_of_a_newcomer_while_all_others_are_in_work(self, record: Record) -> None:
        record.submit(make_spec("busy", sections=200))
        work(record, 60)
        # Nobody waits at this moment: the only job is in a worker's hands.
        in_work = Claimer(record).must_claim()
        for _ in range(20):
            record.submit(make_spec("late", sections=9))
        record.commit(in_work, make_artifact(in_work))
        assert work(record, 40).count("busy") >= 14

    def test_a_newcomer_between_two_jobs_of_a_regular(self, record: Record) -> None:
        record.submit(make_spec("regular", sections=60))
        do_all(record)
        for _ in range(20):
            record.submit(make_spec("late", sections=9))
        record.submit(make_spec("regular", sections=60))
        assert work(record, 40).count("regular") >= 12

    def test_a_job_that_waits_for_an_engine_that_is_gone(self, record: Record) -> None:
        record.submit(make_spec("stuck", sections=9))
        Claimer(record, fingerprint="an engine that is gone").do_one()
        record.submit(make_spec("busy", sections=200))
        work(record, 60)
        for _ in range(20):
            record.submit(make_spec("late", sections=9))
        assert work(record, 40).count("busy") >= 12
        # Nor does the stuck tenant's next job make up for all the time.
        for _ in range(20):
            record.submit(make_spec("stuck", sections=9))
        assert work(record, 40).count("stuck") <= 20

    def test_another_class_has_its_own_account(self, record: Record) -> None:
        record.submit(make_spec("a", sections=30, priority="high"))
        do_all(record)
        for tenant in ("a", "b"):
            record.submit(make_spec(tenant, sections=30))
        assert abs(work(record, 22).count("a") - 10) <= 1

    def test_a_lane_held_up_by_the_other_is_made_good(self, redis: Redis) -> None:
        record = Record(redis, RecordPolicy(render_ahead=2))
        for _ in range(20):
            record.submit(make_spec("many", sections=5))
        alone = make_spec("alone", sections=12)
        record.submit(alone)
        render, deliver = Claimer(record), Claimer(record, Lane.DELIVER)
        sampled: list[str] = []
        turns = 0
        while record.get(alone.id).sections_sampled < alone.num_sections:
            task = render.do_one()
            if task is not None and task.kind == "sample":
                sampled.append(task.spec.tenant)
            turns += 1
            if turns % 4 == 0:  # the decoder pauses, then catches up
                for _ in range(4):
                    deliver.do_one()
        assert sampled.count("alone") / len(sampled) >= 0.45


class TestWhoCanServe:
    def test_only_presets_of_the_worker_are_handed_out(self, record: Record) -> None:
        record.submit(make_spec())
        assert Claimer(record, presets=("framepack-i2v",)).claim() is None
        assert Claimer(record, presets=("framepack-i2v", PRESET)).claim() is not None

    def test_a_begun_lane_stays_with_its_engine(self, record: Record) -> None:
        record.submit(make_spec())
        assert Claimer(record, fingerprint="engine-a").do_one() is not None
        assert Claimer(record, fingerprint="engine-b").claim() is None
        assert Claimer(record, fingerprint="engine-a").claim() is not None

    def test_a_lane_that_made_nothing_yet_may_change_its_engine(self, record: Record) -> None:
        record.submit(make_spec())
        record.release(Claimer(record, fingerprint="engine-a").must_claim())
        assert Claimer(record, fingerprint="engine-b").claim() is not None

    def test_lanes_are_pinned_apart(self, record: Record) -> None:
        record.submit(make_spec())
        render = Claimer(record, fingerprint="engine-a")
        render.do_one()
        render.do_one()
        assert Claimer(record, Lane.DELIVER, fingerprint="engine-b").claim() is not None

    def test_records_of_a_later_version_do_not_hide_others(self, record: Record) -> None:
        for _ in range(40):
            record.submit(make_spec("a", schema_version=SCHEMA_VERSION + 1))
        for tenant in ("a", "b"):
            record.submit(make_spec(tenant))
        assert {Claimer(record).must_claim().spec.tenant for _ in range(2)} == {"a", "b"}
        assert Claimer(record).claim() is None
