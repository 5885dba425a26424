"""Failing is quick and cheap."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.checkers import bounded_failure
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, PhaseMark, ProbeMark, Verdict


def operation(index: int, took: float, **fields: Any) -> Operation:
    return Operation(index, 0, "read", "7", time=float(index), end=index + took, **fields)


def verdict(*records: Any, amplification: float | None = None) -> Verdict:
    return bounded_failure(2.0, amplification)(History.of(records))


def test_operations_that_end_in_time_are_right() -> None:
    assert verdict(operation(0, 2.0), operation(1, 0.5, type="fail"), operation(2, 2.0, type="info")).kind == "ok"
    assert verdict(operation(0, 2.1)._replace(time=0.1)).kind == "ok"  # 2.1 - 0.1 is above 2


@pytest.mark.parametrize("phase", ["run", "heal", "recovery"])
def test_the_slowest_operation_is_the_witness(phase: Any) -> None:
    slowest = operation(1, 7.5, type="info", error="ReadTimeout", phase=phase)
    found = verdict(operation(0, 3.0), slowest, operation(2, 4.0))
    assert found.kind == "violated"
    assert found.why == "read of 7 at 1.000 s took 7.500 s until it failed with ReadTimeout, longer than 2 s"
    assert found.witness == (slowest,)


def test_the_baseline_does_not_count() -> None:
    slow = operation(0, 9.0, phase="baseline")
    assert verdict(slow).kind == "unknown"
    assert verdict(slow, operation(1, 1.0)).kind == "ok"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=7))
def test_the_verdict_is_that_of_brute_force(tenths: list[int]) -> None:
    found = verdict(*(operation(index, each / 10) for index, each in enumerate(tenths)))
    assert found.kind == ("violated" if max(tenths) > 20 else "ok")


def count(time: float, phase: Any, episode: int = 1, **targets: tuple[int, int | None]) -> list[Any]:
    answer = {
        name: {"connections": connections, "commands": commands} for name, (connections, commands) in targets.items()
    }
    return [PhaseMark(phase, time, episode), ProbeMark("upstream", answer, time, episode)]


WORK = [operation(index, 0.1) for index in range(10)]


def test_requests_in_proportion_to_the_operations_are_right() -> None:
    records = count(0, "run", redis=(5, 1000)) + WORK + count(20, "recovery", redis=(6, 1050))
    assert verdict(*records, amplification=3).kind == "ok"
    assert verdict(*records).kind == "ok"


def test_a_retry_storm_is_found_by_commands_or_by_connections() -> None:
    for storm in ((5, 1051), (56, 1000), (56, None)):
        failed = WORK[9]._replace(type="fail", error="503")
        records = count(0, "run", redis=(5, 1000)) + WORK[:9] + [failed] + count(20, "recovery", redis=storm)
        found = verdict(*records, amplification=3)
        assert found.kind == "violated"
        assert found.why == "10 operations of episode 1 caused 51 requests (redis 51) in the phase run, more than 50"
        assert failed in found.witness


def test_all_dependencies_count_together() -> None:
    records = (
        count(0, "run", redis=(0, 0), postgres=(0, 0)) + WORK + count(20, "recovery", redis=(0, 35), postgres=(0, 36))
    )
    assert verdict(*records, amplification=3).kind == "violated"
    assert verdict(*records, amplification=4).kind == "ok"


def test_requests_of_the_readiness_path_are_allowed() -> None:
    probes = [ProbeMark("ready", {"status": 200, "error": None}, float(time)) for time in range(10)]
    records = count(0, "run", redis=(0, 0)) + WORK + probes + count(20, "recovery", redis=(0, 60))
    assert verdict(*records, amplification=3).kind == "ok"


def test_a_recovery_may_send_what_the_work_has_left() -> None:
    work, recovery = count(0, "run", redis=(0, 0)), count(20, "recovery", redis=(0, 0))
    following = count(30, "run", 2, redis=(0, 50))
    assert verdict(*work, *WORK, *recovery, *following, amplification=3).kind == "ok"
    storm = count(30, "run", 2, redis=(0, 60))
    found = verdict(*work, *WORK, *recovery, *storm, amplification=3)
    assert "in the phase recovery" in found.why


def test_a_count_during_the_heal_is_skipped() -> None:
    records = (
        count(0, "run", redis=(0, 0)) + WORK + count(19, "heal", redis=(0, None)) + count(20, "recovery", redis=(0, 60))
    )
    assert verdict(*records, amplification=3).kind == "violated"
    assert verdict(*records[:-2], amplification=3).kind == "ok"


def test_a_restarted_server_counts_from_zero() -> None:
    records = count(0, "run", redis=(0, 5000)) + WORK + count(20, "recovery", redis=(0, 40))
    assert verdict(*records, amplification=3).kind == "ok"


def test_the_baseline_may_need_more() -> None:
    records = count(0, "baseline", redis=(0, 0)) + count(5, "run", redis=(0, 900)) + WORK
    assert verdict(*records, *count(20, "recovery", redis=(0, 910)), amplification=1).kind == "ok"


def test_without_counters_amplification_is_unknown() -> None:
    assert verdict(*WORK, amplification=3).kind == "unknown"
    assert verdict(*WORK, *count(0, "run", redis=(0, 0)), amplification=3).kind == "unknown"
    assert verdict(*WORK, operation(11, 3.0), amplification=3).kind == "violated"
