"""No id is acknowledged twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.checkers import unique_ids
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, Verdict


def create(index: int, key: str | None, **fields: Any) -> Operation:
    return Operation(index, 0, fields.pop("f", "create"), key, time=index, end=index + 0.5, **fields)


def verdict(*operations: Operation) -> Verdict:
    return unique_ids()(History.of(operations))


def test_different_ids_are_right() -> None:
    assert verdict(create(0, "1"), create(1, "2")) == Verdict("unique_ids", "ok")


def test_a_second_acknowledgement_is_found() -> None:
    creates = create(0, "1"), create(1, "2"), create(2, "1")
    found = verdict(*creates)
    assert (found.kind, found.why) == ("violated", "id 1 was acknowledged twice: at 0.500 s and at 2.500 s")
    assert found.witness == (creates[0], creates[2])


def test_only_acknowledged_creates_count() -> None:
    others = create(1, "1", type="info"), create(2, "1", type="fail"), create(3, "1", f="update"), create(4, None)
    assert verdict(create(0, "1"), *others).kind == "ok"
    assert verdict(*others).kind == "unknown"


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=7))
def test_the_verdict_is_that_of_brute_force(ids: list[str]) -> None:
    found = verdict(*(create(index, key) for index, key in enumerate(ids)))
    assert (found.kind == "violated") == any(ids[i] == ids[j] for i in range(len(ids)) for j in range(i))
    assert len({each.key for each in found.witness}) == bool(found.witness)


@given(st.integers(2, 50), st.data())
def test_one_changed_id_in_a_true_history_is_found(count: int, data: st.DataObject) -> None:
    creates = [create(index, str(index)) for index in range(count)]
    assert verdict(*creates).kind == "ok"
    spoiled, other = data.draw(st.permutations(range(count)))[:2]
    creates[spoiled] = create(spoiled, str(other))
    assert {each.index for each in verdict(*creates).witness} == {spoiled, other}
