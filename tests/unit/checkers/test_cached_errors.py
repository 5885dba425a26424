"""A fault's answer does not outlive the fault."""

from __future__ import annotations

import pytest

from pytest_resilience.checkers import no_cached_errors
from pytest_resilience.operation import Operation
from tests.support.histories import history, op

FAULT = (2.0, 5.0)  # strike and heal
CREATED = op(0, "create", 0, "7", "a")
OTHER = op(0, "create", 1, "8", "b")


def refused(time: float, error: str = "503", **fields: object) -> Operation:
    return op(1, "read", time, "7", type="fail", error=error, **fields)


def absent(time: float) -> Operation:
    return op(1, "read", time, "7", None)


def answered(time: float, key: str = "8", value: str = "b", **fields: object) -> Operation:
    return op(2, "read", time, key, value, **fields)


CACHED = {
    "again and again, while another key answers": (CREATED, OTHER, refused(3), refused(6), answered(7), refused(8)),
    "after an answer": (CREATED, refused(3), answered(6, "7", "a"), refused(7)),
    "from a cache, as its state says": (CREATED, refused(3), refused(6, state="hit")),
    "no object, though it is there": (CREATED, absent(3), absent(6), answered(7, "7", "a")),
    "no object, though a list has it": (CREATED, absent(3), op(2, "list", 6, None, {"7": "a"}), absent(7)),
    "a list without it": (
        CREATED,
        OTHER,
        op(2, "list", 3, None, {}),
        op(2, "list", 6, None, {}),
        answered(7, "7", "a"),
    ),
    "the text of an error": (CREATED, answered(3, "7", "unavailable"), answered(6, "7", "unavailable")),
    "in a list": (CREATED, answered(3, "7", "unavailable"), op(2, "list", 6, None, {"7": "unavailable"})),
}


@pytest.mark.parametrize("operations", CACHED.values(), ids=CACHED)
def test_an_answer_of_the_fault_after_the_heal_is_found(operations: tuple[Operation, ...]) -> None:
    verdict = no_cached_errors()(history(*operations, faults=[FAULT]))
    assert verdict.kind == "violated"
    assert "under a fault" in verdict.why
    assert 3 in [each.time for each in verdict.witness]
    assert max(each.time for each in verdict.witness) >= 6


FORGOTTEN = {
    "answers": (CREATED, refused(3), answered(6, "7", "a")),
    "another error": (CREATED, refused(3), answered(6, "7", "a"), refused(7, "500")),
    "an error of another key": (
        CREATED,
        OTHER,
        refused(3),
        op(1, "read", 6, "8", type="fail", error="503"),
        answered(7),
    ),
    "refused for the first time": (CREATED, answered(3, "7", "a"), answered(6, "7", "a"), refused(7)),
    "nothing answers yet": (CREATED, refused(3), refused(6), refused(7)),
    "only a cache answers": (CREATED, OTHER, refused(3), refused(6), answered(7, state="hit"), refused(8)),
    "refused once": (CREATED, OTHER, refused(3), answered(6), refused(7)),
    "a timeout, which no cache has": (
        CREATED,
        refused(3, "ReadTimeout"),
        answered(6, "7", "a"),
        refused(7, "ReadTimeout"),
    ),
    "perhaps deleted": (CREATED, op(0, "delete", 1, "7", type="info"), absent(3), answered(6, "7", "a"), absent(7)),
    "deleted": (CREATED, op(0, "delete", 1, "7"), absent(3), absent(6)),
    "lost": (CREATED, absent(3), absent(6)),
    "the value of a write": (CREATED, answered(3, "7", "a"), answered(6, "7", "a")),
    "a value from before": (answered(3, "9", "old"), answered(6, "9", "old")),
    "an unchanged list": (CREATED, op(2, "list", 3, None, {"7": "a"}), op(2, "list", 6, None, {"7": "a"})),
}


@pytest.mark.parametrize("operations", FORGOTTEN.values(), ids=FORGOTTEN)
def test_other_answers_after_the_heal_are_no_cached_errors(operations: tuple[Operation, ...]) -> None:
    assert no_cached_errors()(history(*operations, faults=[FAULT])).kind == "ok"


def test_an_error_under_the_next_fault_is_no_cached_error() -> None:
    operations = (CREATED, refused(3), answered(6, "7", "a"), refused(8.5), answered(12, "7", "a"))
    assert no_cached_errors()(history(*operations, faults=[FAULT, (8.2, 9.0)])).kind == "ok"


@pytest.mark.parametrize(
    ("operations", "faults"),
    [
        ((CREATED, answered(6, "7", "a")), []),
        ((CREATED, refused(3)), [FAULT]),
        ((CREATED, refused(3), refused(6)), [(2.0, None)]),
    ],
    ids=["no fault", "no read after it", "no heal"],
)
def test_without_a_read_after_the_heal_nothing_is_decided(
    operations: tuple[Operation, ...], faults: list[tuple[float, float | None]]
) -> None:
    assert no_cached_errors()(history(*operations, faults=faults)).kind == "unknown"


def test_an_error_may_be_cached_for_a_while() -> None:
    broken = history(CREATED, refused(3), answered(6, "7", "a"), refused(7), answered(9, "7", "a"), faults=[FAULT])
    assert no_cached_errors(within=2.5)(broken).kind == "ok"
    assert no_cached_errors(within=1)(broken).kind == "violated"


def test_the_sentence_names_the_error_and_the_heal() -> None:
    verdict = no_cached_errors()(history(CREATED, refused(3), answered(6, "7", "a"), refused(7), faults=[FAULT]))
    assert verdict.why == (
        "key 7: a read by client 1 at 7.000 s shows the error 503 2.000 s after the last heal, as a read by client 1 at 3.000 s "
        "did under a fault, and a read by client 2 at 6.000 s was answered"
    )
