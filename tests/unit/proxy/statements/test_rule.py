"""The counts of a rule, and what it holds."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.proxy.statements.rule import MIN_HOLDS, SHOWN, Rule
from pytest_resilience.proxy.tap import Hold
from pytest_resilience.wire.statement_rule import StatementRule


def rule(**settings: Any) -> Rule:
    return Rule(StatementRule(verb="insert", act="error", code="40001", **settings))


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 2}, [2]),
        ({"first": 3}, [1, 2, 3]),
        ({"every": 2}, [2, 4, 6]),
        ({"after": 4}, [5, 6]),
        ({"after": 2, "nth": 2}, [4]),
        ({"after": 1, "every": 2, "first": 2}, [3, 5]),
    ],
)
def test_counts_choose_statements(settings: dict[str, int], chosen: list[int]) -> None:
    counted = rule(**settings)
    assert [number for number in range(1, 7) if counted.choose(1)] == chosen
    assert (counted.matched, counted.chosen) == (6, len(chosen))


def test_counts_go_over_all_connections_or_each_one() -> None:
    over_all, each = rule(nth=2), rule(nth=2, per_connection=True)
    assert [over_all.choose(number) for number in (1, 2, 1, 2)] == [False, True, False, False]
    assert [each.choose(number) for number in (1, 2, 1, 2)] == [False, False, True, True]
    assert (each.matched, each.chosen) == (4, 2)


def test_new_settings_keep_the_counts() -> None:
    counted = rule(nth=1)
    assert counted.choose(1)
    counted.change(StatementRule(verb="insert", act="reset", nth=2))
    assert counted.choose(1)


def test_the_last_statements_are_shown() -> None:
    counted = rule()
    for number in range(9):
        counted.record(float(number), f"insert {number}")
    figures = counted.counters_json()
    assert figures["shown"] == [f"insert {number}" for number in range(9 - SHOWN, 9)]
    assert (figures["acted"], figures["first"], figures["last"]) == (9, 0.0, 8.0)


def test_a_release_lets_everything_go() -> None:
    holding = rule()
    holds = [holding.hold(Hold()) for _ in range(3)]
    holding.release()
    assert all(each.released for each in holds)


def test_released_holds_are_forgotten() -> None:
    holding = rule()
    kept = holding.hold(Hold())
    for _ in range(10 * MIN_HOLDS):
        holding.hold(Hold()).release()
    assert len(holding._holds) <= 2 * MIN_HOLDS
    holding.release()
    assert kept.released
