"""The profile of a run."""

from __future__ import annotations

import pytest

from pytest_resilience.options import TABLE
from pytest_resilience.profiles import PROFILES, profile_named


@pytest.mark.parametrize(
    ("name", "ci", "expected"),
    [
        (None, None, "dev"),
        (None, "", "dev"),
        (None, "false", "dev"),
        (None, "true", "ci"),
        (None, "1", "ci"),
        ("soak", "1", "soak"),
        ("dev", "1", "dev"),
    ],
)
def test_it_is_that_of_the_option_else_ci_where_ci_is_set(name: str | None, ci: str | None, expected: str):
    assert profile_named(name, {} if ci is None else {"CI": ci}).name == expected


def test_the_option_allows_every_profile():
    assert next(option for option in TABLE if option.name == "profile").choices == tuple(PROFILES)
