"""After the last heal, the system returns to its baseline."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.checkers import recovered
from pytest_resilience.history import History
from pytest_resilience.operation import FaultMark, Operation, PhaseMark, ProbeMark, Record, Verdict

STEADY = {
    "read": {"p95": 0.01, "error_rate": 0.0, "sources": ["redis"]},
    "update": {"p95": 0.02, "error_rate": 0.0, "sources": []},
}
HEALED = 10.0


def operation(f: str, after: float, took: float = 0.01, **fields: Any) -> Operation:
    """Return an operation of the recovery phase, some seconds after the last heal."""
    fields = {"phase": "recovery", "source": "redis" if f == "read" else None, **fields}
    return Operation(0, 0, f, "1", time=HEALED + after, end=HEALED + after + took, **fields)


def failed(f: str, after: float, error: str = "503", took: float = 0.01) -> Operation:
    return operation(f, after, took, type="fail", error=error)


def history(*operations: Operation, marks: list[Record] | None = None, baseline: Any = STEADY) -> History:
    before: list[Record] = [
        PhaseMark("baseline", 0.0),
        ProbeMark("baseline", baseline, 1.0),
        PhaseMark("run", 1.0),
        FaultMark("strike", "redis.refuse", 2.0, 0),
        PhaseMark("heal", HEALED - 0.1),
        FaultMark("heal", "redis.refuse", HEALED, 0, 3, "connections"),
        PhaseMark("recovery", HEALED),
    ]
    ordered = sorted(operations, key=lambda each: each.time)
    return History.of([*before, *(each._replace(index=index) for index, each in enumerate(ordered)), *(marks or [])])


def verdict(*operations: Operation, within: float = 5.0, ratio: float = 3.0, **settings: Any) -> Verdict:
    return recovered(within, ratio)(history(*operations, **settings))


def gave_up(after: float, why: str = "") -> list[Record]:
    return [ProbeMark("recovery", {"recovered": False, "after": after, "why": why}, HEALED + after)]


GOOD = [operation(f, after) for after in (1.0, 1.1) for f in ("read", "update")]


def test_a_system_that_is_back_has_recovered() -> None:
    assert verdict(failed("read", 0.1), failed("update", 0.2), *GOOD).kind == "ok"
    assert recovered(within=5).judge(history(*GOOD)).kind == "ok"


def test_an_operation_that_still_fails_is_named_with_its_error() -> None:
    updates = [failed("update", each / 2) for each in range(11)]
    found = verdict(operation("read", 1), operation("read", 2), *updates, marks=gave_up(5.2))
    assert found.kind == "violated"
    assert found.why == "update still failed with 503 5.0 s after the last heal of episode 1"
    assert found.witness[-1].error == "503"


def test_a_recovery_after_the_limit_is_too_late() -> None:
    updates = [failed("update", each / 2) for each in range(13)]
    operations = [operation("read", 1), *updates, operation("update", 6.5), operation("update", 6.6)]
    assert verdict(*operations).kind == "violated"
    assert verdict(*operations, within=6.5).kind == "ok"


def test_an_operation_that_hangs_until_after_the_limit_is_not_back() -> None:
    found = verdict(operation("read", 1), failed("update", 0.1, "ReadTimeout", 6.0), operation("update", 6.2))
    assert (found.kind, found.why) == (
        "violated",
        "update still failed with ReadTimeout 6.1 s after the last heal of episode 1",
    )


def test_an_error_after_the_limit_is_a_relapse() -> None:
    found = verdict(*GOOD, failed("update", 6.0))
    assert found.why == "update failed with 503 again 6.0 s after the last heal of episode 1"
    assert verdict(*GOOD, failed("update", 6.0, "412")).kind == "ok"


def test_operations_that_stay_slow_are_not_back() -> None:
    slow = [operation("update", each / 2, 0.2) for each in range(11)]
    found = verdict(operation("read", 1), *slow)
    assert found.why == "update still took 0.200 s (baseline p95 0.020 s) 5.2 s after the last heal of episode 1"
    assert verdict(operation("read", 1), *slow, ratio=8).kind == "ok"


def test_one_slow_operation_on_a_busy_machine_is_no_alarm() -> None:
    assert verdict(*GOOD, operation("update", 1.2, 0.4), operation("update", 1.3)).kind == "ok"
    assert verdict(*(each._replace(end=each.end + 0.05) for each in GOOD)).kind == "ok"


def test_of_many_operations_the_p95_counts() -> None:
    steady = [operation("update", 1 + each / 100, 0.01) for each in range(100)]
    assert (
        verdict(operation("read", 1), *steady, *(operation("update", 3 + each, 0.5) for each in range(2))).kind == "ok"
    )
    reads = [operation("read", 1), operation("read", 2)]
    slow = [operation("update", each / 20, 0.5 if each % 5 == 3 else 0.01) for each in range(100)]
    found = verdict(*reads, *slow, marks=gave_up(5.1))
    assert found.why == "update still took 0.500 s (baseline p95 0.020 s) 5.4 s after the last heal of episode 1"


def test_answers_from_another_source_are_not_the_steady_state() -> None:
    reads = [operation("read", each / 2, source="memory") for each in range(11)]
    found = verdict(operation("update", 1), *reads)
    assert found.why == "read still was answered by memory (baseline redis) 5.0 s after the last heal of episode 1"
    assert verdict(operation("update", 1), *reads[:4], operation("read", 2), operation("read", 2.1)).kind == "ok"


def test_one_answer_of_the_right_source_is_not_enough() -> None:
    reads = [operation("read", each / 2, source="memory") for each in range(1, 11)]
    assert verdict(operation("update", 1), operation("read", 0.1), *reads).kind == "violated"
    assert verdict(operation("update", 1), operation("read", 0.1), reads[0]).kind == "ok"


def test_a_miss_of_the_cache_may_happen_at_any_time() -> None:
    reads = [operation("read", each / 2, source="postgres", state="miss") for each in range(11)]
    assert verdict(operation("update", 1), *reads).kind == "ok"


def test_errors_of_the_baseline_are_allowed_afterwards() -> None:
    flaky = {"update": {"p95": 0.02, "error_rate": 0.25, "sources": []}}
    updates = [failed("update", each / 8) if each % 4 == 3 else operation("update", each / 8) for each in range(40)]
    assert verdict(*updates, baseline=flaky).kind == "ok"
    assert verdict(*updates, operation("read", 1), failed("update", 4.99)).kind == "violated"


def test_rejections_are_no_errors() -> None:
    assert verdict(*GOOD, failed("update", 1.2, "412")).kind == "ok"
    assert verdict(*GOOD, failed("update", 1.2), failed("update", 1.3, "412")).kind == "ok"
    refused = [failed("update", 1.2, "429"), operation("read", 6)]
    assert verdict(*GOOD, *refused).kind == "violated"
    only = verdict(operation("read", 1), *(failed("update", each, "412") for each in range(6)))
    assert (only.kind, only.why) == (
        "unknown",
        "update was only rejected after the last heal, so that none could succeed",
    )


def test_every_second_success_is_no_recovery() -> None:
    updates = [operation("update", each / 4) if each % 2 else failed("update", each / 4) for each in range(20)]
    reads = [operation("read", 1), operation("read", 2)]
    assert verdict(*reads, *updates, marks=gave_up(5.1, "update fails")).kind == "violated"


def test_operations_after_the_finding_do_not_count() -> None:
    finding = ProbeMark("recovery", {"recovered": True, "after": 2.0, "why": ""}, HEALED + 2)
    assert verdict(*GOOD, operation("read", 2.5, source="memory"), failed("read", 3), marks=[finding]).kind == "ok"


def test_a_play_that_gave_up_before_the_limit_decides_nothing() -> None:
    found = verdict(operation("read", 1), failed("update", 1), failed("update", 3), marks=gave_up(3.0))
    assert found.kind == "unknown"
    assert found.why == (
        "the play ended 3.0 s after the last heal, before the limit of 5 s, when update failed with 503"
    )
    assert verdict(operation("read", 1), failed("update", 1), marks=gave_up(3.0), within=3.0).kind == "violated"


def test_a_kind_that_was_not_attempted_decides_nothing() -> None:
    found = verdict(operation("read", 1))
    assert (found.kind, found.why) == ("unknown", "no update was attempted within 5 s after the last heal")
    assert verdict(operation("read", 1), failed("update", 1), operation("update", 7)).kind == "unknown"


def test_a_violation_outweighs_an_unknown_kind() -> None:
    assert verdict(*(failed("read", each) for each in range(6)), marks=gave_up(5.5)).kind == "violated"


def ready(status: int | None, after: float) -> ProbeMark:
    return ProbeMark("ready", {"status": status, "error": None if status else "ConnectError"}, HEALED + after)


def test_the_readiness_path_has_to_be_back() -> None:
    before = [ready(200, -9)]
    refusing = [ready(503, each / 2) for each in range(12)]
    found = verdict(*GOOD, operation("read", 5.2), marks=[*before, *refusing])
    assert found.why == "the readiness path still answered 503 5.0 s after the last heal of episode 1"
    assert (
        verdict(*GOOD, operation("read", 5.2), marks=[*before, *refusing[:5], ready(200, 3), *refusing[7:]]).kind
        == "ok"
    )
    assert verdict(*GOOD, operation("read", 5.2), marks=refusing).kind == "ok"
    assert verdict(*GOOD, marks=[*before, *refusing[:5]]).kind == "unknown"


def test_without_a_recovery_phase_or_a_baseline_nothing_is_decided() -> None:
    assert recovered(5)(History.of([operation("read", 1, phase="run")])).why == 'the history has no phase "recovery"'
    assert verdict(*GOOD, baseline={}).kind == "unknown"
    never = {"read": {"p95": None, "error_rate": 1.0, "sources": []}}
    assert verdict(*GOOD, baseline=never).kind == "unknown"


def test_the_operations_of_the_baseline_phase_can_be_the_baseline() -> None:
    before = [operation("read", each / 10 - 9, phase="baseline") for each in range(20)]
    failing = [failed("read", each / 2) for each in range(11)]
    assert verdict(*before, *GOOD, baseline={}).kind == "ok"
    found = verdict(*before, *failing, baseline={})
    assert (found.kind, found.witness[0].phase) == ("violated", "baseline")
    assert verdict(*before[1:], *failing, baseline={}).kind == "unknown"


def test_a_fault_that_was_not_healed_decides_nothing() -> None:
    lasting = FaultMark("strike", "postgres.refuse", 3.0, 1)
    found = verdict(*(failed("update", each) for each in range(6)), marks=[lasting])
    assert (found.kind, found.why) == ("unknown", "postgres.refuse was not healed in episode 1")


def test_each_episode_is_judged() -> None:
    second: list[Record] = [
        PhaseMark("run", HEALED + 20, 2),
        FaultMark("strike", "redis.refuse", HEALED + 20, 1, episode=2),
        FaultMark("heal", "redis.refuse", HEALED + 21, 1, 3, "connections", 2),
        PhaseMark("recovery", HEALED + 21, 2),
    ]
    later = [each._replace(time=each.time + 21, end=each.end + 21, episode=2) for each in GOOD]
    assert verdict(*GOOD, *later, marks=second).kind == "ok"
    memory = [operation("read", 21 + each, source="memory", episode=2) for each in range(7)]
    found = verdict(*GOOD, *later[1::2], *memory, marks=second)
    assert found.kind == "violated"
    assert "after the last heal of episode 2" in found.why


def test_without_marks_of_phases_the_operations_have_them() -> None:
    marks: list[Record] = [
        ProbeMark("baseline", STEADY, 1.0),
        FaultMark("strike", "a", 2.0, 0),
        FaultMark("heal", "a", HEALED, 0),
    ]
    assert recovered(5)(History.of([*marks, *GOOD])).kind == "ok"
    failing = [failed("read", each) for each in range(7)]
    assert recovered(5)(History.of([*marks, *failing])).kind == "violated"


@given(st.lists(st.booleans(), min_size=12, max_size=30))
def test_the_verdict_without_errors_in_the_baseline_is_that_of_brute_force(good: list[bool]) -> None:
    """Updates every 0.5 s. Brute force: a success begins by 5 s, and nothing fails from it to the end."""
    updates = [operation("update", each / 2) if ok else failed("update", each / 2) for each, ok in enumerate(good)]
    baseline = {"update": STEADY["update"]}
    last_failure = max((each for each, ok in enumerate(good) if not ok), default=-1)
    assert verdict(*updates, baseline=baseline).kind == ("ok" if last_failure < 10 else "violated")


@pytest.mark.parametrize("change", [{"type": "fail", "error": "503"}, {"source": "memory"}, {"end": 99.0}])
def test_one_changed_kind_in_a_true_history_is_found(change: dict[str, Any]) -> None:
    rounds = [operation(f, each / 10) for each in range(60) for f in ("read", "update")]
    assert verdict(*rounds).kind == "ok"
    spoiled = [each._replace(**change) if each.f == "read" else each for each in rounds]
    assert verdict(*spoiled).kind == "violated"


def test_a_busy_machine_excuses_operations_that_take_longer_by_as_much() -> None:
    slow = [operation(f, after, took=0.3) for after in range(1, 6) for f in ("read", "update")]

    def measured(slowdown: float) -> list[Record]:
        answer = {"recovered": False, "after": 5.4, "why": "", "slowdown": slowdown}
        return [ProbeMark("recovery", answer, HEALED + 5.4)]

    assert verdict(*slow, marks=measured(1.0)).kind == "violated"
    assert verdict(*slow, marks=measured(5.0)).kind == "ok"


@pytest.mark.parametrize(("now", "kind"), [(9, "ok"), (10, "violated")])
def test_connections_that_stay_open_after_an_outage_are_a_leak(now: int, kind: str) -> None:
    """One client worked, so a pool of two may have grown to nine."""
    answer = {"recovered": kind == "ok", "after": 5.4, "why": "", "open": {"redis": now}}
    work = Operation(0, 0, "read", "1", time=2.5, end=2.6, client=1)
    steady = [operation(f, after) for after in range(1, 6) for f in ("read", "update")]
    marks: list[Record] = [ProbeMark("recovery", answer, HEALED + 5.4)]
    judged = history(*steady, work, marks=marks)
    counts = ProbeMark("upstream", {"redis": {"connections": 2, "commands": 9, "open": 2}}, 1.5)
    found = recovered(within=5)(History.of([*judged.records, counts]))
    assert found.kind == kind
    assert kind == "ok" or found.why.startswith("10 connections to redis were still open at ")
