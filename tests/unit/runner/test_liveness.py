"""A system has recovered when it is back at its own baseline, on a busy machine too. That it answers again is not enough."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience import history
from pytest_resilience.checkers.answers import is_answer
from pytest_resilience.errors import SetupError
from pytest_resilience.history import Client, History, recording
from pytest_resilience.operation import Operation, ProbeMark
from pytest_resilience.runner.clients import ThreadClients
from pytest_resilience.runner.liveness import Liveness
from pytest_resilience.runner.machine_load import slowdown
from tests.support.clocks import FakeClock
from tests.support.played import FakeSystem, FakeWorkload

BASELINE = {
    "update": {"p95": 0.01, "error_rate": 0.0, "sources": []},
    "read": {"p95": 0.01, "error_rate": 0.0, "sources": ["redis"]},
}


class Scripted(FakeWorkload):
    """Operations with given outcomes, round by round. The last round repeats.

    Args:
        clock: the clock that operations spend time on.
        rounds: for each kind the seconds, the outcome ("ok" or an error) and the source.
    """

    def __init__(self, clock: FakeClock, *rounds: dict[str, tuple[float, str, str | None]]) -> None:
        super().__init__([])
        self.clock = clock
        self.rounds = rounds
        self.first: int | None = None

    def perform(self, client: Client, kind: str, n: int) -> None:
        self.first = n if self.first is None else self.first
        took, outcome, source = self.rounds[min(n - self.first, len(self.rounds) - 1)].get(kind, (0.01, "ok", "redis"))
        invocation = client.invoke(kind, key="1")
        self.clock.sleep(took)
        if outcome == "ok":
            invocation.ok(source=source if kind == "read" else None)
        else:
            invocation.fail(outcome)


def recover(*rounds: dict[str, tuple[float, str, str | None]], status: int = 200) -> tuple[dict[str, Any], Scripted]:
    clock = FakeClock()
    system = FakeSystem(clock, has_service=True)
    system.status = status
    workload = Scripted(clock, *rounds)
    liveness = Liveness(system, workload, ThreadClients(workload), clock, slowdown=lambda: 1.0)
    liveness.recover(BASELINE, 1.0)
    (answer,) = (mark.answer for mark in system.history.marks if isinstance(mark, ProbeMark))
    return answer, workload


GOOD: dict[str, tuple[float, str, str | None]] = {}


def test_two_good_rounds_are_enough_and_end_the_phase() -> None:
    answer, workload = recover(GOOD)
    assert answer == {
        "recovered": True,
        "after": 0.04,
        "why": "",
        "slowdown": 1.0,
        "open": {"redis": None, "postgres": None},
    }
    assert workload.calls == ["read all"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"update": (0.01, "503", None)}, "update fails with 503"),
        ({"read": (0.01, "ReadTimeout", None)}, "read fails with ReadTimeout"),
        ({"read": (0.2, "ok", "redis")}, "read takes 0.200 s, and its p95 was 0.010 s"),
        ({"read": (0.01, "ok", "memory")}, "read is answered by memory, and was by redis"),
    ],
)
def test_what_is_not_back_is_the_reason(bad: dict[str, tuple[float, str, str | None]], why: str) -> None:
    answer, workload = recover(bad)
    assert (answer["recovered"], answer["why"]) == (False, why)
    assert answer["after"] >= 1.0
    assert workload.calls == []
    back, _ = recover(bad, GOOD, bad, GOOD, GOOD)
    assert back["recovered"]
    assert back["after"] > 0.1, "one good round between bad ones is not enough"


def test_a_system_that_is_not_ready_has_not_recovered() -> None:
    answer, _ = recover(GOOD, status=503)
    assert answer["why"] == "the readiness path answers 503"


def test_every_kind_has_to_succeed() -> None:
    answer, _ = recover({"update": (0.01, "404", None)})
    assert answer["why"] == "no update operation has succeeded"
    assert recover({"update": (0.01, "404", None)}, GOOD, {"update": (0.01, "404", None)})[0]["recovered"]


def test_a_baseline_without_any_success_is_an_error_unless_a_fault_has_struck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "_recording", [History()])  # without the faults of other tests

    def measure(*labels: str) -> None:
        clock = FakeClock()
        system = FakeSystem(clock)
        workload = Scripted(clock, {"read": (0.01, "404", None), "update": (0.01, "422", None)})
        with recording(system.history):
            for label in labels:
                system.history.add_strike(label, clock.now())
            Liveness(system, workload, ThreadClients(workload), clock).measure_baseline(None)

    reason = "although nothing has struck: update fails with 422, read fails with 404$"
    with pytest.raises(SetupError, match=f"no operation of the workload has succeeded, {reason}"):
        measure()
    measure("redis.refuse")


def test_an_operation_that_the_baseline_has_seen_fail_may_fail() -> None:
    clock = FakeClock()
    system = FakeSystem(clock)
    workload = Scripted(clock, {"read": (0.01, "500", None)}, GOOD)
    liveness = Liveness(system, workload, ThreadClients(workload), clock)
    measured = liveness.measure_baseline(None)
    assert measured["read"] == {"p95": 0.01, "error_rate": 0.05, "sources": ["redis"]}
    liveness.recover(measured, 1.0)
    _, recovery = (mark.answer for mark in system.history.marks if isinstance(mark, ProbeMark))
    assert recovery["recovered"]


@pytest.mark.parametrize(
    ("outcome", "error", "expected"),
    [
        ("ok", None, True),
        ("fail", "404", True),
        ("fail", "412", True),
        ("fail", "429", False),
        ("fail", "503", False),
        ("info", "500", False),
        ("fail", "4 errors", False),
        ("fail", "ConnectError", False),
    ],
)
def test_a_rejection_is_an_answer(outcome: Any, error: str | None, expected: bool) -> None:
    assert is_answer(Operation(0, 0, "update", type=outcome, error=error)) is expected


@pytest.mark.parametrize(("busy", "recovered"), [(1.0, False), (2.0, False), (5.0, True)])
def test_operations_may_take_longer_by_as_much_as_the_machine_is_busy(busy: float, recovered: bool) -> None:
    clock = FakeClock()
    system = FakeSystem(clock=clock)
    workload = Scripted(clock, {"update": (0.2, "ok", None), "read": (0.2, "ok", "redis")})
    Liveness(system, workload, ThreadClients(workload), clock, slowdown=lambda: busy).recover(BASELINE, within=3.0)
    (answer,) = (m.answer for m in system.history.marks if isinstance(m, ProbeMark) and m.name == "recovery")
    assert (answer["recovered"], answer["slowdown"]) == (recovered, busy)


def test_the_slowdown_of_a_machine_is_at_least_one() -> None:
    assert slowdown() >= 1.0


@pytest.mark.parametrize(("more", "recovered"), [(11, True), (12, False)])
def test_a_pool_that_has_grown_beyond_its_clients_is_not_back(more: int, recovered: bool) -> None:
    clock = FakeClock()
    system = FakeSystem(clock=clock)
    workload = FakeWorkload([])
    liveness = Liveness(system, workload, ThreadClients(workload), clock, count=3)
    system.open = {"redis": 2}
    liveness.measure_baseline(BASELINE)
    system.open = {"redis": 2 + more}
    liveness.recover(BASELINE, within=1.0)
    (answer,) = (m.answer for m in system.history.marks if isinstance(m, ProbeMark) and m.name == "recovery")
    assert answer["recovered"] is recovered
    assert answer["open"]["redis"] == 2 + more
    assert recovered or answer["why"] == "14 connections to redis are open, and 2 were"
