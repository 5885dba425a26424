"""The liveness phase compares with the baseline, and allows for a busy machine."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.operation import ProbeMark
from pytest_resilience.runner.clients import ThreadClients
from pytest_resilience.runner.liveness import Liveness
from pytest_resilience.runner.machine import slowdown
from tests.support.clocks import FakeClock
from tests.support.played import FakeSystem, FakeWorkload

BASELINE = {kind: {"p95": 0.01, "error_rate": 0.0, "sources": []} for kind in ("update", "read")}


class SlowWorkload(FakeWorkload):
    """Operations that each take 0.2 s of a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__([])
        self._clock = clock

    def perform(self, client: Any, kind: str, n: int) -> None:
        call = client.invoke(kind, key="1")
        self._clock.sleep(0.2)
        call.ok()


@pytest.mark.parametrize(("busy", "recovered"), [(1.0, False), (2.0, False), (5.0, True)])
def test_operations_may_take_longer_by_as_much_as_the_machine_is_busy(busy: float, recovered: bool) -> None:
    clock = FakeClock()
    system = FakeSystem(clock=clock)
    workload = SlowWorkload(clock)
    Liveness(system, workload, ThreadClients(workload), clock, slowdown=lambda: busy).recover(BASELINE, within=3.0)
    (answer,) = (m.answer for m in system.history.marks if isinstance(m, ProbeMark) and m.name == "recovery")
    assert (answer["recovered"], answer["slowdown"]) == (recovered, busy)


def test_the_slowdown_of_a_machine_is_at_least_one() -> None:
    assert slowdown() >= 1.0
