"""Numbers and names in messages."""

from __future__ import annotations

import pytest

from pytest_resilience.wording import close_matches, counted, did_you_mean, listed


@pytest.mark.parametrize(
    ("number", "plural", "text"),
    [
        (0, "processes", "0 processes"),
        (1, "processes", "1 process"),
        (2, "processes", "2 processes"),
        (1, "connections", "1 connection"),
        (1, "bytes", "1 byte"),
        (1, "queries", "1 query"),
        (1, "good answers", "1 good answer"),
        (1, "data", "1 data"),
    ],
)
def test_one_is_singular(number: int, plural: str, text: str) -> None:
    assert counted(number, plural) == text


def test_listed_things_have_the_right_noun() -> None:
    assert listed("processes", [12]) == "process 12"
    assert listed("processes", [1, 2, 3]) == "processes 1, 2 and 3"


def test_similar_names_are_suggested_and_others_are_not() -> None:
    assert close_matches("refus", ["refuse", "reset", "flush"]) == ["refuse"]
    assert close_matches("REFUSE", ["refuse"]) == ["refuse"]
    assert did_you_mean("dokcer", ["docker"]) == "; did you mean 'docker'?"
    assert did_you_mean("xyz", ["docker"]) == ""
