"""A read of a counter lies between the acknowledged and the attempted adds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_resilience.checkers import counter
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, Verdict


def verdict(*operations: Operation) -> Verdict:
    ordered = sorted(operations, key=lambda each: each.time)
    return counter()(History.of([each._replace(index=index) for index, each in enumerate(ordered)]))


def add(value: Any, time: float, end: float, **fields: Any) -> Operation:
    return Operation(0, 0, "add", value=value, time=time, end=end, **fields)


def read(value: Any, time: float, end: float, **fields: Any) -> Operation:
    return Operation(0, 0, "read", value=value, time=time, end=end, **fields)


@pytest.mark.parametrize(
    ("value", "kind"), [(0, "violated"), (1, "ok"), (3, "ok"), (4, "violated"), (None, "violated")]
)
def test_a_read_sees_all_adds_before_it_and_perhaps_those_beside_it(value: int | None, kind: str) -> None:
    assert verdict(add(1, 0, 1), add(2, 2, 9), add(1, 6, 7), read(value, 3, 4)).kind == kind


def test_an_add_that_ends_when_the_read_begins_is_beside_it() -> None:
    assert [verdict(add(1, 0, 1), read(value, 1, 2)).kind for value in (0, 1)] == ["ok", "ok"]
    assert [verdict(add(1, 2, 3), read(value, 1, 2)).kind for value in (0, 1)] == ["ok", "ok"]


def test_an_unknown_add_may_have_happened_at_any_time_and_a_failed_one_has_not() -> None:
    unknown = add(5, 0, 1, type="info")
    assert [verdict(unknown, read(value, 8, 9)).kind for value in (0, 5, 6)] == ["ok", "ok", "violated"]
    failed = add(5, 0, 1, type="fail")
    assert [verdict(failed, read(value, 8, 9)).kind for value in (0, 5)] == ["ok", "violated"]


def test_negative_amounts_lower_the_bounds() -> None:
    adds = add(5, 0, 1), add(-2, 2, 3), add(-1, 4, 9)
    assert [verdict(*adds, read(value, 5, 6)).kind for value in (1, 2, 3, 4)] == ["violated", "ok", "ok", "violated"]


def test_each_key_is_a_counter_of_its_own() -> None:
    adds = add(1, 0, 1, key="a"), add(1, 0, 1, key="b"), add(1, 0, 1, key="b")
    assert verdict(*adds, read(1, 2, 3, key="a"), read(2, 2, 3, key="b")).kind == "ok"
    broken = verdict(*adds, read(1, 2, 3, key="a"), read(1, 2, 3, key="b"))
    assert broken.why == (
        "counter b was read as 1 from 2.000 s to 3.000 s, but adds up to 2 had been acknowledged before"
    )
    assert [(each.f, each.key) for each in broken.witness] == [("add", "b"), ("add", "b"), ("read", "b")]


def test_a_read_above_all_adds_has_them_as_its_witness() -> None:
    broken = verdict(add(1, 0, 1), add(1, 5, 6), read(2, 2, 3))
    assert broken.why == (
        "the counter was read as 2 from 2.000 s to 3.000 s, but all adds that had begun by then make at most 1"
    )
    assert [(each.f, each.time) for each in broken.witness] == [("add", 0), ("read", 2)]


def test_the_witness_of_many_adds_is_short() -> None:
    broken = verdict(*(add(1, each, each + 0.5) for each in range(50)), read(3, 60, 61))
    assert (len(broken.witness), broken.witness[-1].f) == (10, "read")


def test_a_counter_begins_at_the_number_of_its_create() -> None:
    created = Operation(0, 0, "create", "a", 10, time=0, end=1)
    assert verdict(created, add(1, 2, 3, key="a"), read(11, 4, 5, key="a")).kind == "ok"


def test_numbers_from_redis_and_floats_are_compared_as_numbers() -> None:
    assert verdict(add(1, 0, 1), add("2", 2, 3), read(b"3", 4, 5)).kind == "ok"
    assert verdict(*(add(0.1, each, each + 0.5) for each in range(10)), read(1.0, 20, 21)).kind == "ok"
    assert verdict(add(None, 0, 1), read("1", 2, 3)).kind == "ok"


def test_without_a_read_of_a_counter_nothing_is_decided() -> None:
    assert verdict().kind == "unknown"
    assert (
        verdict(add(1, 0, 1), read(9, 2, 3, type="info"), read("text", 2, 3), read(9, 2, 3, key="register")).kind
        == "unknown"
    )
    replaced = Operation(0, 0, "update", value=9, time=2, end=3)
    assert verdict(add(1, 0, 1), replaced, read(9, 4, 5)).kind == "unknown"


amounts = st.sampled_from([-2, -1, 1, 3])
spans = st.tuples(st.integers(0, 8), st.integers(1, 5))


@settings(deadline=None)
@given(
    st.lists(st.tuples(amounts, spans, st.sampled_from(["ok", "info", "fail"])), max_size=6), spans, st.integers(-6, 12)
)
def test_the_verdict_on_one_read_is_that_of_brute_force(
    drawn: list[tuple[int, tuple[int, int], Any]], span: tuple[int, int], value: int
) -> None:
    begin, end = span[0], sum(span)
    adds = [add(amount, time, time + length, type=outcome) for amount, (time, length), outcome in drawn]
    done = [each for each in adds if each.type == "ok" and each.end < begin]
    maybe = [each for each in adds if each.type != "fail" and each not in done and each.time <= end]
    sums = {
        sum(each.value for each in [*done, *some])
        for count in range(len(maybe) + 1)
        for some in itertools.combinations(maybe, count)
    }
    found = verdict(*adds, read(value, begin, end)).kind
    if adds:
        assert found == ("ok" if min(sums) <= value <= max(sums) else "violated")
    else:
        assert found == "unknown"
