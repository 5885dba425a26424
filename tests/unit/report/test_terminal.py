"""The summary of a run with its strikes, hits and vacuous tests."""

from __future__ import annotations

import json

from pytest_resilience.report.terminal import fault_lines, tail, vacuous_lines


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
