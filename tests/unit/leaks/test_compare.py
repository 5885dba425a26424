"""What is too much, and what a marker allows."""

from __future__ import annotations

import pytest

from pytest_resilience.errors import SetupError
from pytest_resilience.leaks.compare import Leak, Resource, check_patterns, new_resources


def resource(name: str, key: object = None, kind: str = "redis") -> Resource:
    return Resource(kind, name, key or name)


def test_what_is_new_has_stayed() -> None:
    assert new_resources([resource("a")], [resource("a"), resource("b")]) == [resource("b")]


def test_what_has_gone_is_nobodys_business() -> None:
    assert new_resources([resource("a"), resource("b")], [resource("a")]) == []


def test_one_that_took_the_place_of_another_is_none_too_many() -> None:
    assert new_resources([resource("pool", 1)], [resource("pool", 2)]) == []


def test_of_several_with_one_name_the_newest_are_blamed() -> None:
    after = [resource("pool", 1), resource("pool", 2), resource("pool", 3), resource("pool", 4)]
    assert new_resources([resource("pool", 1), resource("pool", 0)], after) == after[2:]


def test_one_that_was_there_is_never_blamed() -> None:
    assert new_resources([resource("pool", 2)], [resource("pool", 1), resource("pool", 2)]) == [resource("pool", 1)]


def test_the_same_name_of_another_kind_is_something_else() -> None:
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
    assert Leak("thread:watcher-1", "stands at x", ("socket:127.0.0.1:80",)).allowed_by([pattern]) is allowed


def test_a_name_with_brackets_can_be_given_literally() -> None:
    assert Leak("fd:/tmp/x[1]").allowed_by(["fd:/tmp/x[1]"])


def test_a_leak_reads_as_name_and_what_is_known() -> None:
    assert str(Leak("fd:pipe")) == "fd:pipe"
    assert str(Leak("thread:a", "stands at b.py:1 in c")) == "thread:a, stands at b.py:1 in c"


@pytest.mark.parametrize("arguments", [(), ("",), ("thread",), ("thread:",), ("thred:x",), (3,), ("thread:a", None)])
def test_a_marker_that_names_nothing_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(SetupError, match="the marker leaks"):
        check_patterns(arguments)


def test_a_marker_takes_no_settings() -> None:
    with pytest.raises(SetupError, match="got thread="):
        check_patterns(("thread:a",), ["thread"])


def test_a_good_marker_is_taken() -> None:
    check_patterns(("thread:a-*", "lock:42", "fd:/tmp/*"))
