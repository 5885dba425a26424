"""An acknowledged write is in the final reads, and a deleted object does not return."""

from __future__ import annotations

import pytest

from pytest_resilience.checkers import no_lost_writes, no_resurrection
from pytest_resilience.operation import Operation
from tests.support.histories import history, op

CREATED = op(0, "create", 0, "7", "a", version=1)
UPDATED = op(1, "update", 1, "7", "b", version=2)
SEEN = op(0, "read", 2, "7", "b", version=2)
DELETED = op(1, "delete", 2, "7")


def late(f: str, time: float, key: str | None = None, value: object = None, **fields: object) -> Operation:
    """Return a read or list of the recovery phase."""
    return op(0, f, time, key, value, phase="recovery", **fields)


LOST = {
    "an update that the final read misses": (CREATED, UPDATED, op(0, "read", 3, "7", "a", version=1)),
    "without versions": (
        CREATED._replace(version=None),
        UPDATED._replace(version=None),
        op(0, "read", 3, "7", "a"),
    ),
    "seen, and then missing": (CREATED, UPDATED, SEEN, op(0, "read", 3, "7", "a"), op(0, "list", 4, None, {"7": "a"})),
    "an object that the final list lacks": (CREATED, op(0, "list", 3, None, {})),
    "an object that a read does not find": (CREATED, op(0, "read", 3, "7", None)),
    "missing in the recovery phase": (CREATED, UPDATED, SEEN, late("read", 9, "7", "a")),
    "replaced by a lower version of a concurrent write": (
        CREATED,
        UPDATED._replace(version=3),
        op(2, "update", 1.1, "7", "c", version=2),
        op(0, "read", 3, "7", "c", version=2),
    ),
    "replaced by the same version of a concurrent write": (
        CREATED,
        UPDATED,
        op(2, "update", 1.1, "7", "c", version=2),
        op(0, "read", 3, "7", "c", version=2),
    ),
    "a conditional write": (CREATED, UPDATED._replace(expected=1), op(0, "read", 3, "7", "a")),
    "a write that failed explains nothing": (
        CREATED,
        UPDATED,
        op(2, "delete", 1.1, "7", type="fail", error="412"),
        op(0, "read", 3, "7", None),
    ),
    "created again after the delete": (CREATED, DELETED, op(0, "create", 3, "7", "c"), op(0, "list", 4, None, {})),
    "a value that existed before": (op(0, "read", 0, "7", "old"), UPDATED, op(0, "read", 3, "7", "old")),
}


@pytest.mark.parametrize("operations", LOST.values(), ids=LOST)
def test_a_lost_write_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = no_lost_writes()(history(*operations))
    assert verdict.kind == "violated", verdict
    assert [each.time for each in verdict.witness][-1] == operations[-1].time


KEPT = {
    "read": (CREATED, UPDATED, SEEN),
    "in a list": (CREATED, UPDATED, op(0, "list", 3, None, {"7": "b"})),
    "a stale read that a later one corrects": (
        CREATED,
        UPDATED,
        op(0, "read", 2, "7", "a"),
        op(0, "read", 3, "7", "b"),
    ),
    "a stale read before the recovery phase": (CREATED, UPDATED, op(0, "read", 2, "7", "a"), late("read", 9, "7", "b")),
    "overwritten": (CREATED, UPDATED, op(0, "update", 2, "7", "c", version=3), op(0, "read", 3, "7", "c", version=3)),
    "overwritten by a concurrent write": (CREATED, UPDATED, op(2, "update", 1.1, "7", "c"), op(0, "read", 3, "7", "c")),
    "overwritten by an unknown write long after": (
        CREATED,
        op(2, "update", 0.6, "7", "c", type="info"),
        UPDATED,
        SEEN,
        op(0, "read", 9, "7", "c"),
    ),
    "deleted": (CREATED, UPDATED, DELETED, op(0, "read", 3, "7", None)),
    "deleted, though an older value returned": (CREATED, UPDATED, DELETED, op(0, "read", 3, "7", "a")),
    "perhaps deleted": (CREATED, op(1, "delete", 0.1, "7", type="info"), UPDATED, op(0, "list", 9, None, {})),
    "created again with a lower version": (
        CREATED,
        UPDATED,
        DELETED,
        op(2, "create", 2.1, "7", "c", type="info"),
        op(0, "read", 9, "7", "c", version=1),
    ),
    "created under an unknown key": (
        CREATED,
        op(2, "create", 1, None, "c", type="info"),
        op(0, "list", 3, None, {"7": "a", "8": "c"}),
    ),
    "an update without a value": (
        CREATED,
        op(0, "update", 1, "7", None, version=2),
        op(0, "read", 2, "7", "a", version=2),
        op(0, "list", 3, None, {"7": "a"}),
    ),
    "in a list of keys": (CREATED, op(0, "list", 3, None, {"7": None})),
    "a read during the write": (CREATED, UPDATED, op(0, "read", 1.2, "7", "a"), op(0, "read", 3, "7", "b")),
    "a list with keys that are no text": (CREATED, op(0, "list", 3, None, {7: "a"})),
    "values that are not hashable": (op(0, "create", 0, "7", {"a": [1]}), op(0, "list", 3, None, {"7": {"a": [1]}})),
}


@pytest.mark.parametrize("operations", KEPT.values(), ids=KEPT)
def test_a_write_that_is_there_or_may_be_overwritten_is_not_lost(operations: tuple[Operation, ...]) -> None:
    assert no_lost_writes()(history(*operations)).kind == "ok"


UNDECIDED = {
    "nothing": (),
    "never read": (CREATED,),
    "read before its end": (CREATED, op(0, "read", 0.2, "7", None)),
    "only unknown writes": (CREATED._replace(type="info"), op(0, "read", 3, "7", None)),
    "a read that failed": (CREATED, op(0, "read", 3, "7", None, type="fail", error="503")),
    "a read that admits its age": (CREATED, UPDATED, op(0, "read", 3, "7", "a", state="stale")),
    "no read of the key after the recovery began": (CREATED, op(0, "read", 3, "7", None), late("read", 9, "8", None)),
    "a list without values by key": (CREATED, op(0, "list", 3, None, ["7"])),
}


@pytest.mark.parametrize("operations", UNDECIDED.values(), ids=UNDECIDED)
def test_without_a_final_read_nothing_is_decided(operations: tuple[Operation, ...]) -> None:
    verdict = no_lost_writes()(history(*operations))
    assert verdict.kind == "unknown"
    assert verdict.why == "no key was read in the end after a write was acknowledged"


def test_the_sentence_names_key_version_times_and_clients() -> None:
    verdict = no_lost_writes()(
        history(CREATED, UPDATED, SEEN, *(op(0, "read", t, "7", "a", version=1) for t in (3, 4, 5, 6)))
    )
    assert verdict.why == (
        "key 7: version 2 ('b'), acknowledged at 1.500 s to client 1, is missing from every read since 3.000 s; "
        "a read by client 0 at 6.000 s shows version 1 ('a')"
    )
    assert [each.time for each in verdict.witness] == [1, 2, 3, 4, 6]


RETURNED = {
    "a read": (CREATED, DELETED, op(0, "read", 3, "7", "a")),
    "a list": (CREATED, DELETED, op(0, "read", 3, "7", None), op(0, "list", 4, None, {"7": "a"})),
    "though it was created again": (CREATED, DELETED, op(0, "create", 3, "7", "c"), op(0, "read", 4, "7", "a")),
    "an unknown write that was seen before": (
        CREATED._replace(type="info"),
        op(0, "read", 1, "7", "a"),
        DELETED,
        op(0, "read", 9, "7", "a"),
    ),
    "a value from nowhere": (CREATED, DELETED, op(0, "read", 3, "7", "zombie")),
    "an object from before": (op(0, "read", 0, "7", "old"), DELETED, op(0, "read", 3, "7", "old")),
    "with an update that failed": (
        CREATED,
        DELETED,
        op(2, "update", 2.1, "7", "c", type="fail", error="404"),
        op(0, "read", 3, "7", "a"),
    ),
}


@pytest.mark.parametrize("operations", RETURNED.values(), ids=RETURNED)
def test_a_deleted_object_that_returns_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = no_resurrection()(history(*operations))
    assert verdict.kind == "violated"
    assert "though its delete was acknowledged at 2.500 s to client 1" in verdict.why
    assert verdict.witness[-1].time == operations[-1].time
    assert any(each.f == "delete" for each in verdict.witness)


GONE = {
    "not found": (CREATED, DELETED, op(0, "read", 3, "7", None)),
    "not in a list": (CREATED, DELETED, op(0, "list", 3, None, {})),
    "read during the delete": (CREATED, DELETED, op(0, "read", 2.2, "7", "a"), op(0, "read", 3, "7", None)),
    "created again": (CREATED, DELETED, op(0, "create", 3, "7", "c"), op(0, "read", 4, "7", "c")),
    "perhaps created again": (CREATED, DELETED, op(0, "create", 3, "7", "c", type="info"), op(0, "read", 9, "7", "c")),
    "a concurrent update": (CREATED, DELETED, op(2, "update", 2.1, "7", "c"), op(0, "read", 3, "7", "c")),
    "an unknown update long before": (
        CREATED,
        op(2, "update", 1, "7", "c", type="info"),
        DELETED,
        op(0, "read", 9, "7", "c"),
    ),
    "a create with an unknown key": (
        CREATED,
        DELETED,
        op(2, "create", 3, None, "c", type="info"),
        op(0, "read", 9, "7", "c"),
    ),
}


@pytest.mark.parametrize("operations", GONE.values(), ids=GONE)
def test_an_object_that_a_write_explains_has_not_returned(operations: tuple[Operation, ...]) -> None:
    assert no_resurrection()(history(*operations)).kind == "ok"


@pytest.mark.parametrize(
    "operations",
    [
        (),
        (CREATED, op(0, "read", 3, "7", "a")),
        (CREATED, DELETED),
        (CREATED, DELETED._replace(type="info"), op(0, "read", 9, "7", "a")),
    ],
)
def test_without_a_read_after_an_acknowledged_delete_nothing_is_decided(operations: tuple[Operation, ...]) -> None:
    assert no_resurrection()(history(*operations)).kind == "unknown"


def test_a_deleted_object_may_be_read_for_a_while() -> None:
    operations = (CREATED, DELETED, op(0, "read", 3, "7", "a"), op(0, "read", 9, "7", None))
    assert no_resurrection(within=1)(history(*operations)).kind == "ok"
    assert no_resurrection(within=0.4)(history(*operations)).kind == "violated"
