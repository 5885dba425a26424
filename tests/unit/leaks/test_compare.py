"""Surplus resources, and the resources that a marker allows."""

from __future__ import annotations

import pytest

from pytest_resilience.errors import SetupError
from pytest_resilience.leaks.compare import Leak, Resource, check_patterns, new_resources


def resource(name: str, key: object = None, kind: str = "redis") -> Resource:
    return Resource(kind, name, key or name)


def test_a_new_resource_is_found() -> None:
    assert new_resources([resource("a")], [resource("a"), resource("b")]) == [resource("b")]


def test_a_resource_that_is_gone_is_not_found() -> None:
    assert new_resources([resource("a"), resource("b")], [resource("a")]) == []


def test_a_replacement_is_no_surplus() -> None:
    assert new_resources([resource("pool", 1)], [resource("pool", 2)]) == []


def test_of_several_with_one_name_the_newest_are_found() -> None:
    after = [resource("pool", 1), resource("pool", 2), resource("pool", 3), resource("pool", 4)]
    assert new_resources([resource("pool", 1), resource("pool", 0)], after) == after[2:]


def test_an_old_resource_is_never_found() -> None:
    assert new_resources([resource("pool", 2)], [resource("pool", 1), resource("pool", 2)]) == [resource("pool", 1)]


def test_one_name_of_two_kinds_is_two_resources() -> None:
    assert new_resources([resource("x", kind="redis")], [resource("x", kind="thread")]) == [
        resource("x", kind="thread")
    ]


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("thread:watcher-1", True),
        ("thread:watcher-*", True),
        ("thread:Watcher-*", False),
        ("task:watcher-1", False),
        ("socket:127.0.0.1:*", True),
        ("*", True),
    ],
)
def test_a_pattern_allows_what_it_names(pattern: str, allowed: bool) -> None:
    assert Leak("thread:watcher-1", "at x", ("socket:127.0.0.1:80",)).allowed_by([pattern]) is allowed


def test_a_pattern_may_be_a_literal_name_with_brackets() -> None:
    assert Leak("fd:/tmp/x[1]").allowed_by(["fd:/tmp/x[1]"])


def test_a_leak_is_shown_by_name_and_details() -> None:
    assert str(Leak("fd:pipe")) == "fd:pipe"
    assert str(Leak("thread:a", "at b.py:1 in c")) == "thread:a, at b.py:1 in c"


@pytest.mark.parametrize("arguments", [(), ("",), ("thread",), ("thread:",), ("thred:x",), (3,), ("thread:a", None)])
def test_a_marker_without_a_valid_name_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(SetupError, match="the marker leaks"):
        check_patterns(arguments)


def test_a_marker_takes_no_settings() -> None:
    with pytest.raises(SetupError, match="got thread="):
        check_patterns(("thread:a",), ["thread"])


def test_a_valid_marker_is_accepted() -> None:
    check_patterns(("thread:a-*", "lock:42", "fd:/tmp/*"))
