"""No read is older than its bound, which may be another one under a fault."""

from __future__ import annotations

import pytest

from pytest_resilience.checkers import bounded_staleness
from pytest_resilience.errors import SetupError
from pytest_resilience.operation import Operation
from tests.support.histories import history, op

CREATED = op(1, "create", 0, "7", "a", version=1)
UPDATED = op(1, "update", 1, "7", "b", version=2)  # acknowledged at 1.5
DELETED = op(1, "delete", 2, "7")


@pytest.mark.parametrize(("time", "kind"), [(1.6, "unknown"), (2.4, "ok"), (2.6, "violated")])
def test_a_read_may_miss_a_write_for_as_long_as_the_bound(time: float, kind: str) -> None:
    verdict = bounded_staleness(1)(
        history(CREATED._replace(time=0.9, end=0.95) if time < 2 else CREATED, UPDATED, op(2, "read", time, "7", "a"))
    )
    assert verdict.kind == kind


STALE = {
    "an older value": (CREATED, UPDATED, op(2, "read", 3, "7", "a")),
    "an older version": (CREATED, UPDATED, op(2, "read", 3, "7", "x", version=1)),
    "a list": (CREATED, UPDATED, op(2, "list", 3, None, {"7": "a"})),
    "a list without it": (CREATED, UPDATED, op(2, "list", 3, None, {})),
    "no object": (CREATED, op(2, "read", 3, "7", None)),
    "a deleted object": (CREATED, DELETED, op(2, "read", 4, "7", "a")),
    "a deleted object in a list": (CREATED, DELETED, op(2, "list", 4, None, {"7": "a"})),
    "a lower version of concurrent writes": (
        CREATED,
        UPDATED._replace(version=3),
        op(3, "update", 1.1, "7", "c", version=2),
        op(2, "list", 3, None, {"7": "c"}),
    ),
}


@pytest.mark.parametrize("operations", STALE.values(), ids=STALE)
def test_a_read_that_is_too_old_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = bounded_staleness(1)(history(*operations))
    assert verdict.kind == "violated"
    assert verdict.witness[-1].time == operations[-1].time
    assert "and the bound is 1 s" in verdict.why


FRESH = {
    "the value": (CREATED, UPDATED, op(2, "read", 3, "7", "b")),
    "a list": (CREATED, UPDATED, op(2, "list", 3, None, {"7": "b"})),
    "a concurrent write": (CREATED, UPDATED, op(3, "update", 1.1, "7", "c"), op(2, "read", 3, "7", "c")),
    "an unknown write": (
        CREATED,
        op(3, "update", 0.1, "7", "c", type="info"),
        UPDATED,
        op(2, "list", 9, None, {"7": "c"}),
    ),
    "deleted": (CREATED, UPDATED, DELETED, op(2, "list", 4, None, {}), op(2, "read", 5, "7", None)),
    "perhaps deleted": (CREATED, op(3, "delete", 0.1, "7", type="info"), UPDATED, op(2, "list", 9, None, {})),
    "a write that failed": (
        CREATED,
        UPDATED._replace(type="fail", error="412"),
        op(2, "read", 3, "7", "a"),
        op(2, "list", 4, None, {"7": "a"}),
    ),
    "a key that nobody wrote": (CREATED, op(2, "list", 3, None, {"7": "a", "8": "old"})),
}


@pytest.mark.parametrize("operations", FRESH.values(), ids=FRESH)
def test_a_read_of_the_last_or_of_a_possible_write_is_fresh(operations: tuple[Operation, ...]) -> None:
    assert bounded_staleness(1)(history(*operations)).kind == "ok"


@pytest.mark.parametrize(
    ("time", "of_two_seconds", "of_eight_seconds"),
    [
        (2.0, "violated", "violated"),
        (3.1, "ok", "ok"),
        (5.1, "violated", "ok"),
        (7.0, "violated", "ok"),
        (8.6, "violated", "ok"),
    ],
    ids=["before the strike", "during the strike", "under the fault", "within the bound after the heal", "later"],
)
def test_a_fault_has_a_bound_of_its_own(time: float, of_two_seconds: str, of_eight_seconds: str) -> None:
    fresh = (op(2, "read", 1.7, "7", "b"), op(2, "read", 2.2, "7", "b"))
    broken = history(CREATED, UPDATED, *fresh, op(3, "read", time, "7", "a"), faults=[(3.2, 6.2)])
    assert bounded_staleness(0.1, under_fault=2)(broken).kind == of_two_seconds
    assert bounded_staleness(0.1, under_fault=8)(broken).kind == of_eight_seconds


@pytest.mark.parametrize(("time", "kind"), [(5, "ok"), (6.2, "ok"), (6.8, "violated")])
def test_without_a_bound_under_a_fault_the_heal_begins_the_ordinary_one(time: float, kind: str) -> None:
    operations = (CREATED, UPDATED, op(2, "read", 2.2, "7", "b"), op(2, "read", time, "7", "a"))
    assert bounded_staleness(0.5)(history(*operations, faults=[(3, 6)])).kind == kind
    assert bounded_staleness(0.5)(history(*operations, faults=[(3, None)])).kind == "ok"


def test_without_a_read_after_the_bound_nothing_is_decided() -> None:
    assert bounded_staleness(1)(history()).kind == "unknown"
    assert bounded_staleness(9)(history(CREATED, op(2, "read", 3, "7", None))).kind == "unknown"


def test_the_sentence_names_the_age_and_the_bound() -> None:
    verdict = bounded_staleness(0.25)(history(CREATED, UPDATED, op(2, "read", 3, "7", "a", version=1)))
    assert verdict.why == (
        "key 7: a read by client 2 at 3.000 s shows version 1 ('a'), though version 2 ('b') was acknowledged at 1.500 s to "
        "client 1, 1.500 s before, and the bound is 0.25 s"
    )


@pytest.mark.parametrize(("seconds", "under_fault"), [(-1, None), (float("nan"), None), (2, 1)])
def test_an_impossible_bound_is_refused(seconds: float, under_fault: float | None) -> None:
    with pytest.raises(SetupError, match="bounded_staleness"):
        bounded_staleness(seconds, under_fault)
