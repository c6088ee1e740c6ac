import pytest

from service.contract.errors import LeaseLost
from service.contract.job import Lane
from service.contract.record import Signal
from tests.support.fleet import Fleet
from tests.worker.conftest import Claim
from worker.drain import SAME_REQUEST_SECONDS, Drain
from worker.interruptions import TaskCancelled, TaskDrained
from worker.lease import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drain(clock: Clock) -> Drain:
    return Drain(clock=clock)


@pytest.fixture
def lease(fleet: Fleet, claim: Claim, clock: Clock, drain: Drain) -> Lease:
    fleet.submit()
    return Lease(claim(Lane.RENDER), 10.0, clock.now, drain, clock)


def test_a_lease_is_over_when_its_time_is(lease: Lease, clock: Clock) -> None:
    clock.now += 9.9
    lease.check()
    clock.now += 0.2
    assert lease.lost
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_renewal_counts_from_when_it_was_asked_for(lease: Lease, clock: Clock) -> None:
    clock.now += 5.0
    asked_at = clock.now
    clock.now += 4.0  # the answer took its time
    lease.renewed(asked_at, Signal.CONTINUE)
    clock.now = asked_at + 9.9
    lease.check()
    clock.now = asked_at + 10.1
    assert lease.lost


def test_answers_that_overtake_each_other_shorten_nothing(lease: Lease, clock: Clock) -> None:
    lease.renewed(clock.now + 5.0, Signal.CONTINUE)
    lease.renewed(clock.now, Signal.CONTINUE)
    clock.now += 14.9
    lease.check()


def test_a_refused_lease_stays_lost(lease: Lease, clock: Clock) -> None:
    lease.refused()
    lease.renewed(clock.now, Signal.CONTINUE)
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_cancel_ends_the_task_and_a_pause_does_not(lease: Lease) -> None:
    lease.told(Signal.PAUSE)
    lease.check()
    lease.told(Signal.CANCEL)
    with pytest.raises(TaskCancelled):
        lease.check()


def test_a_lost_lease_goes_before_a_cancel(lease: Lease) -> None:
    """What is not ours must not be given back either."""
    lease.told(Signal.CANCEL)
    lease.refused()
    with pytest.raises(LeaseLost):
        lease.check()


def test_the_first_request_to_stop_lets_the_task_end(
    lease: Lease, drain: Drain, clock: Clock
) -> None:
    drain.request()
    drain.request()  # the same Ctrl-C by another way
    lease.check()
    assert drain.requested
    clock.now += SAME_REQUEST_SECONDS
    drain.request()
    with pytest.raises(TaskDrained):
        lease.check()


def test_patience_ends(clock: Clock) -> None:
    drain = Drain(patience=30.0, clock=clock)
    assert not drain.at_once
    drain.request()
    clock.now += 29.0
    assert not drain.at_once
    clock.now += 1.0
    assert drain.at_once
