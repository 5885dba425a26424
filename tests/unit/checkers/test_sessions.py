"""A client reads its own writes, and its reads never go back."""

from __future__ import annotations

import pytest

from pytest_resilience.checkers import monotonic_reads, read_your_writes
from pytest_resilience.operation import Operation
from tests.support.histories import history, op

CREATED = op(1, "create", 0, "7", "a", version=1)
UPDATED = op(0, "update", 1, "7", "b", version=2)
DELETED = op(0, "delete", 2, "7")

MISSED = {
    "an older value": (CREATED, UPDATED, op(0, "read", 2, "7", "a")),
    "an older version": (CREATED, UPDATED, op(0, "read", 2, "7", "a", version=1)),
    "a version that is all that is known": (CREATED, UPDATED, op(0, "read", 2, "7", "x", version=1)),
    "no object": (CREATED, UPDATED, op(0, "read", 2, "7", None)),
    "a list": (CREATED, UPDATED, op(0, "list", 2, None, {"7": "a"})),
    "a list without it": (CREATED, UPDATED, op(0, "list", 2, None, {})),
    "the own delete": (CREATED, DELETED, op(0, "read", 3, "7", "a")),
    "the own delete in a list": (CREATED, DELETED, op(0, "list", 3, None, {"7": "a"})),
    "directly after the write": (CREATED, UPDATED, op(0, "read", 1.5, "7", "a")),
    "a concurrent write with a lower version": (
        CREATED,
        UPDATED._replace(version=3),
        op(2, "update", 1.1, "7", "c", version=2),
        op(0, "read", 2, "7", "c", version=2),
    ),
    "under the process number after an unknown outcome": (
        CREATED,
        UPDATED,
        op(0, "update", 2, "8", "x", type="info", process=0),
        op(0, "read", 3, "7", "a", process=9),
    ),
}


@pytest.mark.parametrize("operations", MISSED.values(), ids=MISSED)
def test_an_own_write_that_a_read_misses_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = read_your_writes()(history(*operations))
    assert verdict.kind == "violated"
    assert "misses its own write" in verdict.why
    assert verdict.witness[-1].time == operations[-1].time


SHOWN = {
    "the value": (CREATED, UPDATED, op(0, "read", 2, "7", "b", version=2)),
    "a list": (CREATED, UPDATED, op(0, "list", 2, None, {"7": "b"})),
    "a later write of another client": (CREATED, UPDATED, op(1, "update", 2, "7", "c"), op(0, "read", 3, "7", "c")),
    "a concurrent write": (CREATED, UPDATED, op(1, "update", 1.1, "7", "c"), op(0, "read", 3, "7", "c")),
    "an unknown write": (CREATED, op(1, "update", 0.6, "7", "c", type="info"), UPDATED, op(0, "read", 9, "7", "c")),
    "deleted by another client": (CREATED, UPDATED, op(1, "delete", 2, "7"), op(0, "read", 3, "7", None)),
    "perhaps deleted": (CREATED, op(1, "delete", 0.6, "7", type="info"), UPDATED, op(0, "read", 9, "7", None)),
    "the own delete": (CREATED, DELETED, op(0, "read", 3, "7", None), op(0, "list", 4, None, {})),
    "created again": (CREATED, DELETED, op(1, "create", 3, "7", "c", version=1), op(0, "read", 4, "7", "c", version=1)),
    "a conditional write that was rejected": (
        CREATED,
        op(0, "update", 1, "7", "b", expected=9, type="fail", error="412"),
        op(0, "create", 2, "8", "x"),
        op(0, "read", 3, "7", "a"),
        op(0, "read", 4, "8", "x"),
    ),
    "only another client is behind": (CREATED, UPDATED, op(1, "read", 2, "7", "a"), op(0, "read", 3, "7", "b")),
    "an answer that admits its age": (
        CREATED,
        UPDATED,
        op(0, "read", 2, "7", "a", state="stale"),
        op(0, "read", 3, "7", "b"),
    ),
    "an unknown own write": (
        CREATED,
        UPDATED,
        op(0, "update", 2, "7", "c", type="info"),
        op(0, "read", 3, "7", "b", process=9),
    ),
}


@pytest.mark.parametrize("operations", SHOWN.values(), ids=SHOWN)
def test_a_read_may_show_the_own_write_or_any_later_one(operations: tuple[Operation, ...]) -> None:
    assert read_your_writes()(history(*operations)).kind == "ok"


@pytest.mark.parametrize(
    "operations",
    [
        (),
        (CREATED, op(0, "read", 1, "7", "a")),
        (CREATED, UPDATED),
        (CREATED, UPDATED._replace(type="info"), op(0, "read", 2, "7", "a")),
        (CREATED, UPDATED, op(0, "read", 2, "7", None, type="fail", error="503")),
    ],
)
def test_without_a_read_of_an_own_write_nothing_is_decided(operations: tuple[Operation, ...]) -> None:
    assert read_your_writes()(history(*operations)).kind == "unknown"


def test_the_sentence_names_both_states() -> None:
    verdict = read_your_writes()(history(CREATED, UPDATED, op(0, "read", 2, "7", "a", version=1)))
    assert verdict.why == (
        "key 7: a read by client 0 at 2.000 s shows version 1 ('a') and misses its own write, version 2 ('b'), "
        "acknowledged at 1.500 s to client 0"
    )


def test_without_client_numbers_a_session_is_a_process() -> None:
    write = op(0, "update", 0, "7", "a", process=1)
    later = op(0, "update", 1, "7", "b", process=2)
    of_another = history(write, later, op(0, "read", 2, "7", "a", process=1), op(0, "read", 3, "7", "b", process=2))
    assert read_your_writes()(of_another).kind == "ok"
    assert read_your_writes()(history(write, later, op(0, "read", 2, "7", "a", process=3))).kind == "unknown"


BACK = {
    "an older value": (CREATED, UPDATED, op(2, "read", 2, "7", "b"), op(2, "read", 3, "7", "a")),
    "an older version of concurrent writes": (
        CREATED,
        UPDATED._replace(version=3),
        op(1, "update", 1.1, "7", "c", version=2),
        op(2, "read", 2, "7", "b", version=3),
        op(2, "read", 3, "7", "c", version=2),
    ),
    "versions alone": (op(2, "read", 2, "7", "x", version=5), op(2, "read", 3, "7", "y", version=4)),
    "to a value and back": (
        CREATED,
        op(1, "update", 1.1, "7", "c"),
        UPDATED._replace(version=None),
        op(2, "read", 2, "7", "c"),
        op(2, "read", 3, "7", "b"),
        op(2, "read", 4, "7", "c"),
    ),
    "no object any more": (CREATED, op(2, "read", 2, "7", "a"), op(2, "read", 3, "7", None)),
    "not in the list any more": (CREATED, op(2, "list", 2, None, {"7": "a"}), op(2, "list", 3, None, {})),
    "gone and back": (
        CREATED,
        op(0, "delete", 1, "7", type="info"),
        op(2, "read", 2, "7", "a"),
        op(2, "read", 3, "7", None),
        op(2, "read", 4, "7", "a"),
    ),
    "a list before a read": (CREATED, UPDATED, op(2, "list", 2, None, {"7": "b"}), op(2, "read", 3, "7", "a")),
    "a read before a list": (CREATED, UPDATED, op(2, "read", 2, "7", "b"), op(2, "list", 3, None, {"7": "a"})),
    "a stale answer too": (CREATED, UPDATED, op(2, "read", 2, "7", "b"), op(2, "read", 3, "7", "a", state="stale")),
}


@pytest.mark.parametrize("operations", BACK.values(), ids=BACK)
def test_a_read_that_goes_back_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = monotonic_reads()(history(*operations))
    assert verdict.kind == "violated"
    assert verdict.witness[-1].time == operations[-1].time
    assert sum(each.client == 2 for each in verdict.witness) >= 2


FORWARD = {
    "forward": (CREATED, UPDATED, op(2, "read", 0.6, "7", "a"), op(2, "read", 2, "7", "b")),
    "the same again": (
        CREATED,
        op(2, "read", 1, "7", "a"),
        op(2, "read", 2, "7", "a"),
        op(2, "list", 3, None, {"7": "a"}),
    ),
    "two clients": (
        CREATED,
        UPDATED,
        op(2, "read", 2, "7", "b"),
        op(3, "read", 3, "7", "a"),
        op(2, "read", 4, "7", "b"),
    ),
    "concurrent writes in either order": (
        CREATED,
        UPDATED._replace(version=None),
        op(1, "update", 1.1, "7", "c"),
        op(2, "read", 2, "7", "c"),
        op(2, "read", 3, "7", "b"),
    ),
    "a late unknown write": (
        CREATED,
        op(1, "update", 0.6, "7", "c", type="info"),
        UPDATED._replace(version=None),
        op(2, "read", 2, "7", "b"),
        op(2, "read", 9, "7", "c"),
    ),
    "deleted": (CREATED, op(2, "read", 1, "7", "a"), DELETED, op(2, "read", 3, "7", None), op(2, "list", 4, None, {})),
    "created again with a lower version": (
        CREATED,
        UPDATED,
        op(2, "read", 1.6, "7", "b", version=2),
        DELETED,
        op(1, "create", 3, "7", "c", version=1),
        op(2, "read", 4, "7", "c", version=1),
    ),
    "not there before it was created": (op(2, "read", 0.1, "7", None), CREATED, op(2, "read", 2, "7", "a")),
    "a list of keys between": (
        CREATED,
        op(2, "read", 1, "7", "a"),
        op(2, "list", 2, None, {"7": None}),
        op(2, "read", 3, "7", "a"),
    ),
    "reads that overlap": (
        CREATED,
        UPDATED,
        op(2, "read", 1.2, "7", "b", end=2),
        op(2, "read", 1.4, "7", "a", end=1.8),
        op(2, "read", 3, "7", "b"),
    ),
}


@pytest.mark.parametrize("operations", FORWARD.values(), ids=FORWARD)
def test_a_read_that_may_be_later_does_not_go_back(operations: tuple[Operation, ...]) -> None:
    assert monotonic_reads()(history(*operations)).kind == "ok"


@pytest.mark.parametrize(
    "operations", [(), (CREATED,), (CREATED, op(2, "read", 1, "7", "a"), op(3, "read", 2, "7", "a"))]
)
def test_without_two_reads_of_a_key_nothing_is_decided(operations: tuple[Operation, ...]) -> None:
    assert monotonic_reads()(history(*operations)).kind == "unknown"


def test_the_sentence_names_both_reads() -> None:
    reads = (op(2, "read", 2, "7", "b", version=2), op(2, "read", 3, "7", "a", version=1))
    assert monotonic_reads()(history(CREATED, UPDATED, *reads)).why == (
        "key 7: a read by client 2 at 3.000 s shows version 1 ('a'), though a read by client 2 at 2.000 s has shown "
        "version 2 ('b')"
    )
