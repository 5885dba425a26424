"""The table of options."""

from __future__ import annotations

import pytest

from pytest_resilience.backends.settings import Settings
from pytest_resilience.options import TABLE, VALUES, Given, Option, Options


def test_each_row_with_a_value_is_an_attribute_of_options_or_a_setting_of_backends() -> None:
    assert {option.name for option in VALUES} == {*Options.__annotations__, *Settings._fields}


def test_the_default_of_a_setting_is_the_backends_default() -> None:
    defaults = Settings()._asdict()
    assert {option.name: option.default for option in TABLE if option.name in defaults} == defaults


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("choice", "a", "a"),
        ("integer", "7", 7),
        ("flag", "on", True),
        ("flag", "No", False),
        ("flag", True, True),
        ("text", "x", "x"),
        ("hosts", "a.test, [::1]\n10.0.0.7", ("a.test", "[::1]", "10.0.0.7")),
    ],
)
def test_a_text_becomes_the_value_of_its_kind(kind: str, text: object, value: object) -> None:
    assert Option("name", kind, "", choices=("a",)).parse(text, "here") == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("choice", "here must be one of a, b, got 'moon'"),
        ("integer", "here must be an integer, got 'moon'"),
        ("flag", "here must be true or false, got 'moon'"),
        (
            "hosts",
            "here must be hosts, each a host without scheme and port, such as api.test or 10.0.0.7, got 'moon:1'",
        ),
    ],
)
def test_an_error_names_the_origin_and_the_allowed_values(kind: str, message: str) -> None:
    wrong = "sun moon:1" if kind == "hosts" else "moon"
    with pytest.raises(pytest.UsageError, match=message):
        Option("name", kind, "", choices=("a",)).parse(wrong, "here", ("b",))  # type: ignore[arg-type]


def test_a_given_value_is_not_shown() -> None:
    assert "hunter2" not in repr(
        Given("postgresql://joe:hunter2@host", "--resilience-postgres-upstream", from_project=False)
    )
