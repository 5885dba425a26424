"""Every checker has a name, a definition, a row on the page, and checks its settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience import checkers
from pytest_resilience.errors import SetupError
from pytest_resilience.history import History

PAGE = (Path(__file__).parents[3] / "docs" / "checkers.md").read_text(encoding="utf-8")
SETTINGS: dict[str, tuple[Any, ...]] = {
    "bank": (10,),
    "bounded_failure": (2.0,),
    "bounded_staleness": (1.0,),
    "recovered": (5.0,),
}
NAMES = [name for name in checkers.__all__ if name[0].islower()]


def made(name: str) -> checkers.Checker:
    checker = getattr(checkers, name)(*SETTINGS.get(name, ()))
    assert isinstance(checker, checkers.Checker)
    return checker


@pytest.mark.parametrize("name", NAMES)
def test_a_checker_has_the_name_of_its_function(name: str) -> None:
    assert made(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_checker_is_plain_data(name: str) -> None:
    assert made(name) == made(name)
    assert hash(made(name)) == hash(made(name))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_history_decides_nothing(name: str) -> None:
    verdict = made(name)(History.of([]))
    assert (verdict.checker, verdict.kind) == (name, "unknown")
    assert verdict.why


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_has_the_source_and_the_unknown_cases(name: str) -> None:
    text = type(made(name)).__doc__ or ""
    assert "Source: " in text
    assert re.search(r"\bUnknown\b", text)


def test_the_page_has_a_row_for_each_checker() -> None:
    assert sorted(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linearizable", {"budget": 0}),
        ("bounded_failure", {"within": 0}),
        ("bounded_failure", {"within": 1, "amplification": -1}),
        ("recovered", {"within": -1}),
        ("recovered", {"within": 1, "ratio": 0.5}),
        ("health_tells_the_truth", {"within": 0}),
    ],
)
def test_impossible_settings_are_errors(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match=name):
        getattr(checkers, name)(**settings)
