"""Vacuity of a generated test as a whole."""

from __future__ import annotations

import pytest

from pytest_resilience.generated.vacuity import never_hit
from pytest_resilience.resilience import StrikeCount


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        ({}, []),
        ({"a": StrikeCount(5, 1, 0)}, []),
        ({"a": StrikeCount(1, 0, 1)}, []),
        ({"a": StrikeCount(1, 0, 0)}, ["a"]),
        ({"a": StrikeCount(1, 0, 0), "b": StrikeCount(2, 0, 0)}, ["a", "b"]),
        ({"a": StrikeCount(2, 0, 0), "b": StrikeCount(2, 1, 0)}, []),
        ({"a": StrikeCount(3, 0, 0), "b": StrikeCount(2, 1, 0)}, ["a"]),
        ({"t.a": StrikeCount(1, 0, 0, 1)}, []),
        ({"t.a": StrikeCount(9, 0, 0, 9)}, []),
        ({"t.a": StrikeCount(10, 0, 0, 10)}, ["t.a"]),
        ({"t.a": StrikeCount(1, 0, 0, 1), "t.b": StrikeCount(1, 0, 0, 0)}, ["t.b"]),
        ({"t.a": StrikeCount(19, 0, 0, 19), "t.b": StrikeCount(2, 1, 0, 2)}, []),
        ({"t.a": StrikeCount(20, 0, 0, 20), "t.b": StrikeCount(2, 1, 0, 2)}, ["t.a"]),
        ({"t.starve": StrikeCount(50, 0, 0, 50), "t.b": StrikeCount(2, 1, 0, 2)}, []),
        ({"t.starve": StrikeCount(3, 0, 0, 0), "t.b": StrikeCount(2, 1, 0, 2)}, ["t.starve"]),
        ({"t.a": StrikeCount(9, 0, 0, 9), "u.b": StrikeCount(2, 1, 0, 2)}, []),
        ({"t.a": StrikeCount(6, 0, 0, 6), "t.c": StrikeCount(4, 0, 0, 4), "u.b": StrikeCount(2, 1)}, ["t.a", "t.c"]),
    ],
)
def test_a_fault_that_never_hit_counts_if_it_struck_often_or_nothing_else_hit(
    tally: dict[str, StrikeCount], expected: list[str]
):
    assert [fault for fault, _ in never_hit(tally)] == expected


def test_the_receipt_has_the_number_of_strikes():
    assert never_hit({"a": StrikeCount(1, 0, 0)}) == [("a", "affected nothing in 1 strike")]
