"""The readiness path agrees with what clients experience."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.checkers import health_tells_the_truth
from pytest_resilience.history import History
from pytest_resilience.operation import FaultMark, Operation, ProbeMark, Record, Verdict


def work(
    begin: int, end: int, *, ok: bool = False, f: str = "read", step: float = 0.5, **fields: Any
) -> list[Operation]:
    """Return an operation every half second, in tenths of a second from `begin` to `end`."""
    outcome = {"type": "ok"} if ok else {"type": "fail", "error": "503"}
    return [
        Operation(0, 0, f, time=each / 10, end=each / 10 + 0.2, **{**outcome, **fields})
        for each in range(begin, end, int(step * 10))
    ]


def probes(begin: int, end: int, status: int | None) -> list[Record]:
    return [ProbeMark("ready", {"status": status, "error": None}, each / 10) for each in range(begin, end)]


def verdict(*records: Record, within: float = 5.0) -> Verdict:
    operations = sorted((each for each in records if isinstance(each, Operation)), key=lambda each: each.time)
    marks = [each for each in records if not isinstance(each, Operation)]
    return health_tells_the_truth(within=within)(
        History.of([*marks, *(each._replace(index=index) for index, each in enumerate(operations))])
    )


def test_a_path_that_agrees_with_the_operations_is_right() -> None:
    records = [*work(0, 50, ok=True), *probes(0, 52, 200), *work(52, 150), *probes(52, 150, 503)]
    assert verdict(*records).kind == "ok"
    assert health_tells_the_truth()(History.of(work(0, 60, ok=True) + probes(0, 60, 200))).kind == "ok"


def test_a_path_that_is_ready_while_everything_fails_is_found() -> None:
    found = verdict(*work(0, 50, ok=True), *work(52, 130), *probes(0, 150, 200))
    assert found.kind == "violated"
    assert found.why == "the readiness path answered 2xx from 5.200 s to 12.900 s, when all 16 operations failed"
    assert all(each.error == "503" for each in found.witness)


def test_a_path_that_is_not_ready_while_everything_works_is_found() -> None:
    found = verdict(*work(0, 80, ok=True), *probes(0, 80, 503))
    assert found.kind == "violated"
    assert found.why == "the readiness path answered 503 from 0.000 s to 7.700 s, when all 16 operations succeeded"
    assert "answered nothing" in verdict(*work(0, 80, ok=True), *probes(0, 80, None)).why


def test_a_wrong_answer_may_last_for_a_while() -> None:
    assert verdict(*work(0, 50), *probes(0, 80, 200)).kind == "ok"
    assert verdict(*work(0, 50), *probes(0, 80, 200), within=4).kind == "violated"
    assert verdict(*work(0, 50, ok=True), *probes(0, 80, 503)).kind == "ok"


def test_one_operation_that_succeeds_ends_the_lie() -> None:
    assert verdict(*work(0, 80), *work(41, 42, ok=True), *probes(0, 80, 200)).kind == "ok"
    assert verdict(*work(0, 80, ok=True), *work(41, 42), *probes(0, 80, 503)).kind == "ok"


def test_one_right_answer_ends_the_lie() -> None:
    assert verdict(*work(0, 80), *probes(0, 40, 200), *probes(40, 41, 503), *probes(41, 80, 200)).kind == "ok"


def test_a_rejection_is_an_answer() -> None:
    assert verdict(*work(0, 80, error="404"), *probes(0, 80, 200)).kind == "ok"
    assert verdict(*work(0, 80, error="429"), *probes(0, 80, 200)).kind == "violated"


def test_cancelled_operations_and_effects_do_not_count() -> None:
    cancelled = work(0, 80, error="CancelledError", type="info")
    assert verdict(*cancelled, *work(0, 80, f="run"), *probes(0, 80, 200)).kind == "unknown"
    assert verdict(*cancelled, *work(0, 80), *probes(0, 80, 200)).kind == "violated"


def test_a_service_that_can_only_read_is_ready() -> None:
    """Reads from a cache in memory go on while the database is down. In this history they happen before and afterwards."""
    reads = [*work(0, 20, ok=True), *work(120, 140, ok=True)]
    assert verdict(*reads, *work(30, 110, f="update"), *probes(0, 140, 200)).kind == "ok"
    assert verdict(*reads, *work(30, 110, f="update"), *work(60, 65), *probes(0, 140, 200)).kind == "violated"
    assert verdict(*work(30, 110, f="update"), *probes(0, 140, 200)).kind == "violated"


@pytest.mark.parametrize("label", ["service.pause", "service.latency", "client.cancel"])
def test_faults_between_the_service_and_its_clients_excuse_a_ready_answer(label: str) -> None:
    faults = [FaultMark("strike", label, 1.0, 0), FaultMark("heal", label, 9.0, 0)]
    assert verdict(*work(0, 100), *probes(0, 100, 200), *faults).kind == "ok"


def test_a_fault_of_a_dependency_does_not_excuse_a_ready_answer() -> None:
    strike = FaultMark("strike", "postgres.refuse", 1.0, 0)
    assert verdict(*work(0, 100), *probes(0, 100, 200), strike).kind == "violated"


def test_a_fault_excuses_an_answer_that_is_not_ready() -> None:
    strike = FaultMark("strike", "redis.latency", 1.0, 0)
    assert verdict(*work(0, 100, ok=True), *probes(0, 100, 503), strike).kind == "ok"
    heal = FaultMark("heal", "redis.latency", 2.0, 0)
    assert verdict(*work(0, 100, ok=True), *probes(0, 100, 503), strike, heal).kind == "violated"


def test_a_heal_begins_a_new_time() -> None:
    faults = [FaultMark("strike", "postgres.refuse", 0.0, 0), FaultMark("heal", "postgres.refuse", 4.0, 0)]
    assert verdict(*work(0, 80), *probes(0, 80, 200), *faults).kind == "ok"


def test_nothing_is_known_about_times_without_operations_or_answers() -> None:
    assert verdict(*work(0, 30), *work(60, 90), *probes(0, 90, 200)).kind == "ok"
    assert verdict(*work(0, 90), *probes(0, 30, 200), *probes(60, 90, 200)).kind == "ok"


def test_a_few_slow_operations_prove_nothing() -> None:
    slow = [each._replace(end=each.time + 2.0) for each in work(0, 80, step=2.0)]
    assert len(slow) == 4
    assert verdict(*slow, *work(90, 92, ok=True), *probes(0, 110, 200)).kind == "ok"
    more = [*slow, slow[-1]._replace(time=7.0, end=9.5)]
    assert verdict(*more, *probes(0, 110, 200)).kind == "violated"


def test_without_probes_or_operations_nothing_is_decided() -> None:
    assert verdict(*work(0, 80)).why == "nothing has requested the readiness path"
    assert verdict(*work(0, 10), *probes(0, 80, 200)).kind == "unknown"


@given(st.lists(st.booleans(), min_size=5, max_size=40), st.booleans())
def test_the_verdict_is_that_of_brute_force(outcomes: list[bool], ready: bool) -> None:
    """One operation every second. Brute force: six in a row contradict the path, so that they last longer than 5 s."""
    operations = [each for second, ok in enumerate(outcomes) for each in work(second * 10, second * 10 + 1, ok=ok)]
    lies = "".join("x" if ok != ready else "." for ok in outcomes)
    found = verdict(*operations, *probes(0, len(outcomes) * 10 + 10, 200 if ready else 503))
    assert found.kind == ("violated" if "xxxxxx" in lies else "ok")


@given(st.integers(0, 59))
def test_a_changed_answer_in_a_true_history_is_found_if_it_lasts(begin: int) -> None:
    operations = [*work(0, 200, ok=True)]
    assert verdict(*operations, *probes(0, 200, 200)).kind == "ok"
    lying = [*probes(0, begin, 200), *probes(begin, begin + 70, 503), *probes(begin + 70, 200, 200)]
    assert verdict(*operations, *lying).kind == "violated"
