"""An order of the operations on each key explains the history, or the checker proves that there is none."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_resilience.checkers import linearizable
from pytest_resilience.history import History
from pytest_resilience.operation import Operation
from tests.support.histories import Mix
from tests.support.histories import true_history as simulated


def history(*operations: Operation) -> History:
    ordered = sorted(operations, key=lambda each: each.time)
    return History.of([each._replace(index=index) for index, each in enumerate(ordered)])


def operation(f: str, value: Any, time: float, end: float, **fields: Any) -> Operation:
    return Operation(0, fields.pop("process", 0), f, fields.pop("key", "1"), value, time=time, end=end, **fields)


def kind(*operations: Operation) -> str:
    return linearizable()(history(*operations)).kind


CREATED = operation("create", "a", 0, 1)


def test_operations_one_after_the_other_have_an_order() -> None:
    assert (
        kind(CREATED, operation("read", "a", 2, 3), operation("update", "b", 4, 5), operation("read", "b", 6, 7))
        == "ok"
    )


def test_a_stale_read_has_no_order() -> None:
    verdict = linearizable()(
        history(CREATED, operation("update", "b", 2, 3), operation("read", "a", 4, 5), operation("read", "b", 6, 7))
    )
    assert verdict.kind == "violated"
    assert verdict.why == (
        "key 1: the read from 4.000 s to 5.000 s returned 'a', but the longest order of the operations before ends with 'b'"
    )
    assert [(each.f, each.value) for each in verdict.witness] == [("create", "a"), ("update", "b"), ("read", "a")]


def test_a_read_may_see_a_concurrent_write_or_not() -> None:
    write = operation("update", "b", 2, 5)
    assert kind(CREATED, write, operation("read", "a", 3, 4)) == "ok"
    assert kind(CREATED, write, operation("read", "b", 3, 4)) == "ok"


def test_two_reads_beside_a_write_do_not_go_back() -> None:
    write = operation("update", "b", 2, 9)
    assert kind(CREATED, write, operation("read", "b", 3, 4), operation("read", "a", 5, 6)) == "violated"
    assert kind(CREATED, write, operation("read", "b", 3, 5), operation("read", "a", 4, 6)) == "ok"


def test_operations_that_touch_are_concurrent() -> None:
    assert kind(CREATED, operation("update", "b", 2, 3), operation("read", "a", 3, 4)) == "ok"


def test_an_unknown_write_may_happen_much_later_or_never() -> None:
    unknown = operation("update", "b", 2, 3, type="info")
    assert kind(CREATED, unknown, operation("read", "a", 4, 5), operation("read", "b", 8, 9)) == "ok"
    assert kind(CREATED, unknown, operation("read", "a", 4, 5)) == "ok"


def test_an_unknown_write_that_was_seen_has_happened() -> None:
    unknown = operation("update", "b", 2, 3, type="info")
    assert kind(CREATED, unknown, operation("read", "b", 4, 5), operation("read", "a", 6, 7)) == "violated"


def test_an_unknown_write_happens_once() -> None:
    unknown = operation("update", "b", 2, 3, type="info")
    later = operation("update", "c", 6, 7)
    assert kind(CREATED, unknown, operation("read", "b", 4, 5), later, operation("read", "b", 8, 9)) == "violated"


def test_a_failed_write_does_not_happen() -> None:
    verdict = linearizable()(
        history(CREATED, operation("update", "b", 2, 3, type="fail", error="503"), operation("read", "b", 4, 5))
    )
    assert verdict.kind == "violated"
    assert verdict.why == "key 1: the read from 4.000 s to 5.000 s returned 'b', which only a failed write had written"
    assert [each.type for each in verdict.witness] == ["fail", "ok"]
    verdict = linearizable()(history(CREATED, operation("read", "b", 4, 5)))
    assert verdict.why == "key 1: the read from 4.000 s to 5.000 s returned 'b', which nothing had written"


def test_reads_without_an_answer_do_not_count() -> None:
    failed = [operation("read", "z", 2, 3, type=outcome) for outcome in ("fail", "info")]
    assert kind(CREATED, *failed) == "ok"


def test_a_read_that_admits_its_age_does_not_count() -> None:
    assert kind(CREATED, operation("update", "b", 2, 3), operation("read", "a", 4, 5, state="stale")) == "ok"


def test_a_deleted_object_is_missing() -> None:
    deleted = operation("delete", None, 2, 3)
    assert kind(CREATED, deleted, operation("read", None, 4, 5)) == "ok"
    assert kind(CREATED, deleted, operation("read", "a", 4, 5)) == "violated"
    assert kind(CREATED, operation("read", None, 2, 3)) == "violated"
    assert kind(CREATED, operation("delete", None, 2, 3, type="info"), operation("read", None, 4, 5)) == "ok"


def test_an_object_is_missing_before_its_creation() -> None:
    assert kind(CREATED._replace(time=1.0, end=2.0), operation("read", "z", 1.5, 3)) == "violated"
    assert kind(CREATED._replace(time=1.0, end=4.0), operation("read", None, 2, 3)) == "ok"


def test_the_first_read_defines_the_state_of_a_register_that_nothing_has_created() -> None:
    assert kind(operation("read", "z", 0, 1), operation("read", "z", 2, 3), operation("update", "b", 4, 5)) == "ok"
    assert kind(operation("read", "z", 0, 1), operation("read", "y", 2, 3)) == "violated"


def test_two_writers_of_one_version_are_a_contradiction() -> None:
    first = CREATED._replace(version=1)
    both = [operation("update", value, 2, 3, expected=1, version=2) for value in "bc"]
    assert kind(first, both[0]) == "ok"
    verdict = linearizable()(history(first, *both))
    assert verdict.kind == "violated"
    assert "the update from 2.000 s to 3.000 s required version 1, but" in verdict.why
    assert kind(first, both[0], operation("update", "c", 2, 3, expected=2, version=3)) == "ok"


def test_a_rejected_conditional_write_does_not_count() -> None:
    rejected = operation("update", "c", 2, 3, expected=7, type="fail", error="412")
    assert kind(CREATED._replace(version=1), rejected, operation("read", "a", 4, 5, version=1)) == "ok"


def test_a_read_shows_the_version_of_its_value() -> None:
    first = CREATED._replace(version=1)
    assert kind(first, operation("read", "a", 2, 3, version=2)) == "violated"
    unknown = operation("update", "b", 2, 3, type="info")
    assert kind(first, unknown, operation("read", "b", 4, 5, version=2)) == "ok"
    reads = [operation("read", "b", time, time + 1, version=version) for time, version in ((4, 2), (6, 3))]
    assert kind(first, unknown, *reads) == "violated"


def test_without_versions_a_conditional_write_requires_a_value() -> None:
    assert kind(CREATED, operation("update", "b", 2, 3, expected="a")) == "ok"
    assert kind(CREATED, *(operation("update", value, 2, 3, expected="a") for value in "bc")) == "violated"
    assert kind(CREATED, operation("update", "b", 2, 3, expected=5)) == "ok"  # a version that no operation has shown
    assert kind(CREATED, operation("cas", ["a", "b"], 2, 3), operation("read", "b", 4, 5)) == "ok"
    assert kind(CREATED, operation("cas", ["x", "b"], 2, 3)) == "violated"


def test_a_conditional_write_can_need_two_unknown_writes() -> None:
    first = CREATED._replace(version=1)
    unknown = [operation("update", "b", 2, 3, type="info"), operation("update", "c", 2, 3, type="info", expected=2)]
    assert kind(first, *unknown, operation("update", "d", 4, 5, expected=3, version=4)) == "ok"
    assert kind(first, operation("update", "d", 4, 5, expected=3, version=4)) == "violated"


def test_keys_are_judged_one_by_one() -> None:
    other = [each._replace(key="2") for each in (CREATED, operation("update", "b", 2, 3), operation("read", "a", 4, 5))]
    verdict = linearizable()(history(CREATED, operation("read", "a", 2, 3), *other))
    assert verdict.kind == "violated"
    assert {each.key for each in verdict.witness} == {"2"}


def test_a_create_without_an_answer_belongs_to_the_key_at_which_it_was_read() -> None:
    unknown = operation("create", "n", 0, 1, type="info", key=None)
    assert kind(CREATED, unknown, operation("read", "n", 2, 3, key="2")) == "ok"
    assert kind(unknown, operation("read", "n", 2, 3, key="2"), operation("read", None, 4, 5, key="2")) == "violated"


def test_values_may_be_lists_and_mappings() -> None:
    made = operation("create", {"a": [1, 2]}, 0, 1)
    assert kind(made, operation("read", {"a": (1, 2)}, 2, 3)) == "ok"
    assert kind(made, operation("read", {"a": [2, 1]}, 2, 3)) == "violated"


def test_lists_and_other_kinds_are_ignored() -> None:
    assert kind(CREATED, operation("list", {"1": "z"}, 2, 3, key=None), operation("add", 1, 2, 3)) == "ok"
    assert kind(operation("list", {"1": "z"}, 2, 3, key=None)) == "unknown"
    assert kind(operation("create", "a", 0, 1, type="info")) == "unknown"
    assert linearizable()(History.of([])).kind == "unknown"


def test_a_spent_budget_leaves_the_verdict_open() -> None:
    reads = [operation("read", "a", 2 + each, 2.5 + each) for each in range(50)]
    verdict = linearizable(budget=20)(history(CREATED, *reads))
    assert verdict.kind == "unknown"
    assert "20 steps" in verdict.why
    assert linearizable(budget=200)(history(CREATED, *reads)).kind == "ok"


def test_a_hard_key_does_not_hide_a_violation_of_another() -> None:
    hard = [operation("update", f"w{each}", 2, 3, key="0") for each in range(14)]
    impossible = operation("read", "a", 4, 5, key="0")
    broken = [CREATED, operation("update", "b", 2, 3), operation("read", "a", 4, 5)]
    verdict = linearizable(budget=5000)(history(CREATED._replace(key="0"), *hard, impossible, *broken))
    assert (verdict.kind, verdict.witness[0].key) == ("violated", "1")
    assert linearizable(budget=5000)(history(CREATED._replace(key="0"), *hard, impossible)).kind == "unknown"


def test_many_unknown_writes_leave_the_verdict_open() -> None:
    unknown = [operation("update", f"w{each}", 2, 3, type="info") for each in range(33)]
    verdict = linearizable()(history(CREATED, *unknown, operation("read", "a", 4, 5)))
    assert verdict.kind == "unknown"
    assert "key 1 has 33 writes" in verdict.why
    assert kind(CREATED, *unknown[1:], operation("read", "a", 4, 5)) == "ok"
    stale = [operation("update", "b", 4, 5), operation("read", "a", 6, 7)]
    assert kind(CREATED, *unknown, *stale) == "violated"


# The reference: all orders of all subsets


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    versions = draw(st.booleans())
    operations = []
    for index in range(draw(st.integers(1, 7))):
        f = draw(st.sampled_from(["create", "update", "update", "delete", "read", "read", "read"]))
        time = draw(st.integers(0, 12))
        fields: dict[str, Any] = {"process": index, "type": draw(st.sampled_from(["ok", "ok", "ok", "info", "fail"]))}
        value = draw(st.sampled_from("abc")) if f != "delete" else None
        if f == "read" and draw(st.integers(0, 4)) == 0:
            value = None
        if versions and value is not None and fields["type"] == "ok":
            fields["version"] = draw(st.sampled_from([1, 2, 3, None]))
        if f in ("update", "delete") and draw(st.booleans()):
            fields["expected"] = draw(st.integers(1, 3)) if versions else draw(st.sampled_from("abc"))
        operations.append(operation(f, value, time, time + draw(st.integers(1, 6)), **fields))
    return operations


def has_order(operations: list[Operation]) -> bool:
    """Return True if brute force finds an order."""
    happened = [each for each in operations if each.type == "ok"]
    maybe = [each for each in operations if each.type == "info" and each.f != "read"]
    known = [*happened, *maybe]
    if not known:
        return True
    by_version = any(each.version is not None for each in known)
    values = {each.value for each in known}
    by_value = not by_version and all(each.expected in values for each in known if each.expected is not None)
    known.sort(key=lambda each: each.index)
    first = ("new", 0) if known[0].f == "create" else ("any", None)
    for count in range(len(maybe) + 1):
        for some in itertools.combinations(maybe, count):
            for order in itertools.permutations([*happened, *some]):
                if in_real_time(order) and is_legal(order, first, by_version, by_value):
                    return True
    return False


def in_real_time(order: tuple[Operation, ...]) -> bool:
    return not any(
        later.type == "ok" and later.end < earlier.time for earlier, later in itertools.combinations(order, 2)
    )


def is_legal(order: tuple[Operation, ...], state: tuple[str, int | None], by_version: bool, by_value: bool) -> bool:
    value, version = state
    for each in order:
        if each.f == "read":
            seen = "new" if each.value is None else each.value
            shown = 0 if each.value is None else each.version
            if value not in (seen, "any") or (None not in (version, shown) and version != shown):
                return False
            value, version = seen, version if shown is None else shown
        else:
            if by_version and each.expected is not None and version not in (None, each.expected):
                return False
            if by_value and each.expected is not None and value not in (each.expected, "any"):
                return False
            value, version = ("new", 0) if each.f == "delete" else (each.value, each.version)
    return True


@settings(max_examples=300, deadline=None)
@given(small_histories())
def test_the_verdict_is_that_of_brute_force(operations: list[Operation]) -> None:
    recorded = history(*operations)
    verdict = linearizable()(recorded)
    if verdict.kind == "unknown":
        assert not any(each.type == "ok" for each in operations)
    else:
        assert (verdict.kind == "ok") == has_order(recorded.operations)


@settings(max_examples=300, deadline=None)
@given(small_histories())
def test_a_witness_is_a_contradiction_by_itself(operations: list[Operation]) -> None:
    recorded = history(*operations)
    verdict = linearizable()(recorded)
    if verdict.kind == "violated":
        assert not has_order(recorded.operations)
        assert len(verdict.witness) <= 7


@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 80), st.sampled_from([0.0, 0.15, 0.4]))
@settings(max_examples=100, deadline=None)
def test_a_store_that_keeps_its_promises_is_linearizable(
    chance: random.Random, clients: int, count: int, info: float
) -> None:
    mix = Mix(clients, keys=2, operations=count, info=info, ids=chance.random() < 0.5, versions=chance.random() < 0.5)
    assert linearizable()(simulated(chance, mix)).kind != "violated"


# One changed operation in a true history


def true_history(seed: int, count: int = 200) -> list[Operation]:
    """Return the operations of four clients on three registers, each with an effect at one moment between begin and end."""
    chance = random.Random(seed)
    moments = sorted((number * 0.25 + chance.random(), number) for number in range(count))
    states: dict[str, tuple[str, int]] = {}
    operations = []
    for moment, number in moments:
        key = str(chance.randrange(3))
        value, version = states.get(key, ("", 0))
        time, end = moment - chance.random(), moment + chance.random()
        if not version or chance.random() < 0.4:
            states[key] = (f"v{number}", version + 1)
            expected = version if version and chance.random() < 0.5 else None
            f = "update" if version else "create"
            operations.append(operation(f, f"v{number}", time, end, key=key, version=version + 1, expected=expected))
        else:
            operations.append(operation("read", value, time, end, key=key, version=version))
    return sorted(operations, key=lambda each: each.time)


@pytest.mark.parametrize("versions", [True, False])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_true_history_has_an_order_and_one_stale_read_in_it_has_none(versions: bool, seed: int) -> None:
    operations = true_history(seed)
    if not versions:
        operations = [each._replace(version=None, expected=None) for each in operations]
    assert kind(*operations) == "ok"
    changed = list(operations)
    for index in reversed(range(len(operations))):
        read = operations[index]
        before = [
            each for each in operations[:index] if each.key == read.key and each.f != "read" and each.end < read.time
        ]
        stale = [each for each in before if any(each.end < other.time for other in before)]
        if read.f == "read" and stale:
            changed[index] = read._replace(value=stale[-1].value, version=stale[-1].version)
            break
    verdict = linearizable()(history(*changed))
    assert verdict.kind == "violated"
    assert len(verdict.witness) <= 4
    assert read.time in {each.time for each in verdict.witness}
