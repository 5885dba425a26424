"""The summary of a run with its strikes, hits and vacuous tests."""

from __future__ import annotations

import json

from pytest_resilience.generated.vacuity import serialize_tally
from pytest_resilience.report.run_reports import SCHEDULES, STRIKES
from pytest_resilience.report.terminal import fault_lines, generated_lines, tail, tally_lines, vacuous_lines
from pytest_resilience.resilience import StrikeCount


def serialized(label: str, touched: int | None, unit: str = "connections") -> str:
    return json.dumps({"label": label, "touched": touched, "unit": unit, "first": None, "last": None})


def test_strikes_of_one_kind_are_one_line_whatever_their_settings() -> None:
    struck = [
        serialized("redis.latency(seconds=0.1)", 10, "bytes"),
        serialized("redis.latency(seconds=0.2)", 5, "bytes"),
    ]
    assert fault_lines(struck) == ["redis.latency: 2 strikes, all hit (15 bytes)"]


def test_hits_misses_and_unknown_results_are_counted_apart() -> None:
    struck = [serialized("redis.refuse", touched) for touched in (3, 0, None, 2)]
    assert fault_lines(struck) == ["redis.refuse: 4 strikes, 2 hit (5 connections), 1 unknown, 1 affected nothing"]


def test_vacuous_tests_are_named_with_the_strike_that_missed() -> None:
    struck = [
        ("chaos/a.py::t", serialized("redis.refuse", 0)),
        ("chaos/a.py::t", serialized("redis.kill", 1, "processes")),
    ]
    assert vacuous_lines(struck) == ["VACUOUS chaos/a.py::t: redis.refuse affected no connections"]


def test_a_long_log_is_cut_at_its_beginning() -> None:
    assert tail("a\nb\nc\nd\n", 2) == "(2 lines before)\nc\nd"
    assert tail("a\nb\n", 2) == "a\nb"


def test_strikes_that_nothing_can_count_are_shown_as_unknown() -> None:
    tally = {"postgres.refuse": StrikeCount(6, 2, 1), "redis.reset": StrikeCount(3, 0, 0)}
    assert tally_lines(tally) == ["postgres.refuse: 6 strikes, 2 hit, 1 unknown", "redis.reset: 3 strikes, 0 hit"]
    properties = {SCHEDULES: "4", STRIKES: serialize_tally(tally)}
    assert generated_lines([("test_it", properties)]) == [
        "GENERATED test_it: 4 schedules played, 9 strikes, 2 hit, 1 unknown; redis.reset never hit"
    ]
