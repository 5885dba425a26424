"""Vacuity of a generated test as a whole."""

from __future__ import annotations

import pytest

from pytest_resilience.generated.vacuity import never_hit
from pytest_resilience.resilience import StrikeCount


def drawn(schedules: int, *, hit: int = 0) -> StrikeCount:
    """Return the count of a fault that each of some schedules struck once."""
    return StrikeCount(schedules, hit, 0, schedules, schedules)


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
        ({"t.a": drawn(1)}, []),
        ({"t.a": drawn(9)}, []),
        ({"t.a": drawn(10)}, ["t.a"]),
        ({"t.a": drawn(1), "t.b": StrikeCount(1, 0, 0, 0)}, ["t.b"]),
        ({"t.a": drawn(19), "t.b": drawn(2, hit=1)}, []),
        ({"t.a": drawn(20), "t.b": drawn(2, hit=1)}, ["t.a"]),
        ({"t.a": drawn(9), "u.b": drawn(2, hit=1)}, []),
        ({"t.a": drawn(6), "t.c": drawn(4), "u.b": drawn(2, hit=1)}, ["t.a", "t.c"]),
        ({"t.a": StrikeCount(160, 0, 0, 160, 9), "u.b": drawn(2, hit=1)}, []),
        ({"t.a": StrikeCount(160, 0, 0, 160, 19), "t.b": drawn(2, hit=1)}, []),
        ({"t.starve": drawn(50), "t.b": drawn(2, hit=1)}, []),
        ({"t.starve": drawn(50), "u.b": drawn(2, hit=1)}, []),
        ({"t.client_kill_output_buffer": drawn(6), "t.a": drawn(9), "u.b": drawn(2, hit=1)}, []),
        ({"t.starve": StrikeCount(3, 0, 0, 0), "t.b": drawn(2, hit=1)}, ["t.starve"]),
    ],
)
def test_a_fault_that_never_hit_counts_if_it_struck_often_or_nothing_else_hit(
    tally: dict[str, StrikeCount], expected: list[str]
):
    assert [fault for fault, _ in never_hit(tally)] == expected


def test_the_receipt_has_the_number_of_strikes():
    assert never_hit({"a": StrikeCount(1, 0, 0)}) == [("a", "affected nothing in 1 strike")]
