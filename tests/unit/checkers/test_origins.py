"""Each value that is read was written, and to its own key."""

from __future__ import annotations

import pytest

from pytest_resilience.checkers import no_cross_talk, no_phantoms
from pytest_resilience.operation import Operation
from tests.support.histories import history, op

CREATED = op(0, "create", 0, "7", "a")
OTHER = op(0, "create", 1, "8", "b")

PHANTOMS = {
    "nobody wrote it": (CREATED, op(1, "read", 1, "7", "ghost")),
    "in a list": (CREATED, op(1, "list", 1, None, {"7": "ghost"})),
    "a write that failed": (
        CREATED,
        op(0, "update", 1, "7", "b", type="fail", error="412"),
        op(1, "read", 2, "7", "b"),
    ),
    "read before it was written": (CREATED, op(1, "read", 1, "7", "b"), op(0, "update", 2, "7", "b")),
    "an object that was not there before": (op(1, "read", 0, "7", None), op(1, "read", 1, "7", "ghost")),
    "a key that no list had": (op(1, "list", 0, None, {}), op(1, "list", 1, None, {"7": "ghost"})),
    "two values from before": (op(1, "read", 0, "7", "old"), op(1, "read", 1, "7", "other")),
    "after the first acknowledged update": (op(0, "update", 0, "7", "a"), op(1, "read", 1, "7", "ghost")),
    "a value that is not hashable": (CREATED, op(1, "read", 1, "7", {"error": ["503"]})),
}


@pytest.mark.parametrize("operations", PHANTOMS.values(), ids=PHANTOMS)
def test_a_value_that_nobody_wrote_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = no_phantoms()(history(*operations))
    assert verdict.kind == "violated"
    assert any(each.f in ("read", "list") and each.value is not None for each in verdict.witness)


WRITTEN = {
    "written": (CREATED, op(1, "read", 1, "7", "a")),
    "perhaps written": (CREATED._replace(type="info"), op(1, "read", 9, "7", "a")),
    "under another key": (CREATED, op(1, "read", 1, "8", "a")),
    "by a create with an unknown key": (op(0, "create", 0, None, "a", type="info"), op(1, "list", 1, None, {"7": "a"})),
    "during the write": (op(0, "create", 0, "7", "a", end=3), op(1, "read", 1, "7", "a")),
    "failed once and written then": (
        CREATED._replace(type="fail", error="503"),
        op(0, "create", 1, "7", "a"),
        op(1, "read", 2, "7", "a"),
    ),
    "a value from before": (
        op(1, "read", 0, "7", "old"),
        op(0, "update", 1, "7", "a"),
        op(1, "read", 2, "7", "a"),
        op(1, "read", 3, "7", "old"),
    ),
    "a list without values": (CREATED, op(1, "list", 1, None, {"7": None}), op(1, "read", 2, "7", "a")),
    "no object under a fault proves nothing": (
        op(1, "read", 5, "7", None),
        op(1, "read", 8, "7", "old"),
        op(0, "create", 9, "8", "a"),
        op(1, "read", 10, "8", "a"),
    ),
    "deleted before it was created again": (
        op(0, "delete", 0, "7"),
        CREATED._replace(time=1, end=3),
        op(1, "read", 1.5, "7", "old"),
        op(1, "read", 4, "7", "a"),
    ),
}


@pytest.mark.parametrize("operations", WRITTEN.values(), ids=WRITTEN)
def test_a_value_that_was_written_or_was_there_before_is_no_phantom(operations: tuple[Operation, ...]) -> None:
    assert no_phantoms()(history(*operations, faults=[(4.5, 7)])).kind == "ok"


@pytest.mark.parametrize("operations", [(), (CREATED,), (CREATED, op(1, "read", 1, "8", "old"))])
def test_without_a_read_of_a_written_value_nothing_is_decided(operations: tuple[Operation, ...]) -> None:
    assert no_phantoms()(history(*operations)).kind == "unknown"
    assert no_cross_talk()(history(*operations)).kind == "unknown"


def test_the_sentence_names_the_write_that_failed() -> None:
    failed = op(3, "update", 1, "7", "b", type="fail", error="412")
    verdict = no_phantoms()(history(CREATED, failed, op(1, "read", 2, "7", "b")))
    assert verdict.why == (
        "key 7: a read by client 1 at 2.000 s shows 'b', which only the update of key 7 by client 3 wrote, and that failed at "
        "1.500 s with 412"
    )
    assert [each.time for each in verdict.witness] == [1, 2]


CROSSED = {
    "a read": (CREATED, OTHER, op(1, "read", 2, "7", "b")),
    "a list": (CREATED, OTHER, op(1, "list", 2, None, {"7": "b", "8": "b"})),
    "an unknown write": (CREATED, OTHER._replace(type="info"), op(1, "read", 2, "7", "b")),
    "a write that failed": (CREATED, OTHER._replace(type="fail", error="503"), op(1, "read", 2, "7", "b")),
    "a key that nobody wrote": (OTHER, op(1, "read", 2, "9", "b")),
}


@pytest.mark.parametrize("operations", CROSSED.values(), ids=CROSSED)
def test_a_value_of_another_key_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = no_cross_talk()(history(*operations))
    assert verdict.kind == "violated"
    assert "shows 'b', which client 0 wrote to key 8 at 1.000 s" in verdict.why
    assert [each.time for each in verdict.witness] == [1, 2]


APART = {
    "its own": (CREATED, OTHER, op(1, "read", 2, "7", "a"), op(1, "list", 3, None, {"7": "a", "8": "b"})),
    "written to both": (CREATED, OTHER, op(0, "update", 2, "7", "b"), op(1, "read", 3, "7", "b")),
    "written to its own by a write that failed": (
        OTHER,
        op(0, "update", 2, "7", "b", type="fail", error="412"),
        op(1, "read", 3, "7", "b"),
    ),
    "a create with an unknown key": (
        op(0, "create", 0, None, "b", type="info"),
        OTHER,
        op(1, "list", 2, None, {"7": "b", "8": "b"}),
    ),
    "only by a create with an unknown key": (
        op(0, "create", 0, None, "b", type="info"),
        op(1, "read", 2, "7", "b"),
    ),
    "there before the other write": (
        op(1, "read", 0, "7", "b"),
        OTHER,
        op(1, "read", 2, "7", "b"),
        op(1, "read", 3, "8", "b"),
    ),
    "nobody's": (CREATED, op(1, "read", 2, "7", "ghost"), op(1, "read", 3, "7", "a")),
    "not unique": (OTHER, op(0, "create", 2, "9", "b"), op(1, "read", 3, "7", "b")),
}


@pytest.mark.parametrize("operations", APART.values(), ids=APART)
def test_a_value_that_may_be_of_its_own_key_is_no_cross_talk(operations: tuple[Operation, ...]) -> None:
    assert no_cross_talk()(history(*operations)).kind == "ok"
