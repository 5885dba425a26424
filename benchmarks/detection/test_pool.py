"""A cancelled caller gives its slot of the pool back."""

from __future__ import annotations

from hypothesis import given
from pool import Pool

from pytest_resilience import Resilience, Schedule
from pytest_resilience.checkers import bounded_failure, recovered
from pytest_resilience.strategies import schedules
from pytest_resilience.workloads import RedisRegisters


@given(schedule=schedules("redis", "client", operations=24))
def test_a_cancelled_caller_gives_its_slot_back(resilience: Resilience, schedule: Schedule) -> None:
    history = resilience.play(schedule, RedisRegisters(Pool))
    history.check(recovered(within=5), bounded_failure(within=4))
