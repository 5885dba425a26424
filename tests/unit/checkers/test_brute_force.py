"""The checkers of reads agree with the enumeration of all orders of the writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pytest_resilience.checkers import (
    bounded_staleness,
    monotonic_reads,
    no_lost_writes,
    no_resurrection,
    read_your_writes,
)
from pytest_resilience.operation import Operation
from tests.support.histories import INFINITY, history, op

thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def histories(draw: st.DrawFn, deletes: bool = True) -> list[Operation]:
    """Draw a history of one key, whose reads show the value of any write that had begun, or no object."""
    count = draw(st.integers(2, 7))
    times = draw(st.permutations(range(2 * count)))
    spans = sorted((min(times[2 * n : 2 * n + 2]), max(times[2 * n : 2 * n + 2])) for n in range(count))
    operations: list[Operation] = []
    for index, (begin, end) in enumerate(spans):
        busy = {each.client for each in operations if each.end > begin}
        client = draw(st.sampled_from([each for each in range(count) if each not in busy][:2]))
        writes = sum(each.f != "read" for each in operations)
        f = (
            draw(st.sampled_from(["read", "read", "update", *(["delete"] if deletes else [])]))
            if writes < 4
            else "read"
        )
        values = [*([None] if deletes else []), *(n for n, (other, _) in enumerate(spans[:count]) if other < end)]
        kind = draw(st.sampled_from(["ok", "ok", "ok", "info"])) if f != "read" else "ok"
        value = {"read": draw(st.sampled_from(values)) if values else None, "update": index, "delete": None}[f]
        operations.append(op(client, f, begin, "k", value, end=float(end), type=kind))
    written = {each.value for each in operations if each.f == "update"}
    return [each for each in operations if each.f != "read" or each.value is None or each.value in written]


def known(write: Operation, operations: list[Operation]) -> float:
    shown = [each.end for each in operations if each.f == "read" and write.f == "update" and each.value == write.value]
    return min([*shown, write.end if write.type == "ok" else INFINITY])


def orders(operations: list[Operation]) -> Iterator[list[Operation]]:
    """Yield each order of the writes that real time allows. Those with an unknown outcome take part or not."""
    writes = [each for each in operations if each.f != "read"]
    certain = {id(each) for each in writes if known(each, operations) < INFINITY}
    for size in range(len(certain), len(writes) + 1):
        for order in itertools.permutations(writes, size):
            complete = certain <= set(map(id, order))
            if complete and all(known(b, operations) >= a.time for a, b in itertools.combinations(order, 2)):
                yield list(order)


def places(read: Operation, order: list[Operation]) -> list[int]:
    """Return the places in an order at which a read may have seen what it shows. Before the first write is -1."""
    if read.value is not None:
        return [place for place, each in enumerate(order) if each.f == "update" and each.value == read.value]
    return [-1, *(place for place, each in enumerate(order) if each.f == "delete" and each.time <= read.end)]


def misses(read: Operation, write: Operation, all_orders: list[list[Operation]]) -> bool:
    return not any(
        place >= order.index(write) for order in all_orders if write in order for place in places(read, order)
    )


def pairs(operations: list[Operation]) -> Iterator[tuple[Operation, Operation]]:
    """Yield each acknowledged write with each read that began after it."""
    for write in operations:
        for read in operations:
            if write.f != "read" and write.type == "ok" and read.f == "read" and write.end < read.time:
                yield write, read


def assert_agrees(kind: str, expected: bool) -> None:
    event(kind)
    assert (kind == "violated") == expected


@thorough
@given(operations=histories())
def test_read_your_writes_agrees(operations: list[Operation]) -> None:
    found = list(orders(operations))
    expected = any(write.client == read.client and misses(read, write, found) for write, read in pairs(operations))
    assert_agrees(read_your_writes()(history(*operations)).kind, expected)


@thorough
@given(operations=histories(), bound=st.integers(0, 4))
def test_bounded_staleness_agrees(operations: list[Operation], bound: int) -> None:
    found = list(orders(operations))
    expected = any(write.end < read.time - bound and misses(read, write, found) for write, read in pairs(operations))
    assert_agrees(bounded_staleness(bound)(history(*operations)).kind, expected)


@thorough
@given(operations=histories())
def test_no_resurrection_agrees(operations: list[Operation]) -> None:
    found = list(orders(operations))
    expected = any(
        write.f == "delete" and read.value is not None and misses(read, write, found)
        for write, read in pairs(operations)
    )
    assert_agrees(no_resurrection()(history(*operations)).kind, expected)


@thorough
@given(operations=histories())
def test_no_lost_writes_agrees(operations: list[Operation]) -> None:
    found = list(orders(operations))
    final = max((each for each in operations if each.f == "read"), key=lambda each: each.time, default=None)
    expected = any(
        write.f == "update"
        and read is final
        and misses(read, write, found)
        and misses(read._replace(value=None), write, found)  # else a delete may explain it
        for write, read in pairs(operations)
    )
    assert_agrees(no_lost_writes()(history(*operations)).kind, expected)


@thorough
@given(operations=histories(), deletes=st.just(True))
def test_monotonic_reads_accuses_only_what_no_order_explains(operations: list[Operation], deletes: bool) -> None:
    explained = all(_monotonic(operations, client) for client in range(8))
    if monotonic_reads()(history(*operations)).kind == "violated":
        assert not explained


@thorough
@given(operations=histories(deletes=False))
def test_monotonic_reads_agrees_without_deletes(operations: list[Operation]) -> None:
    explained = all(_monotonic(operations, client) for client in range(8))
    assert_agrees(monotonic_reads()(history(*operations)).kind, not explained)


def _monotonic(operations: list[Operation], client: int) -> bool:
    """True if an order of the writes explains that the reads of a client never go back."""
    reads = [each for each in operations if each.f == "read" and each.client == client]
    for order in orders(operations):
        place = -1
        for read in reads:
            place = min((each for each in places(read, order) if each >= place), default=len(order))
        if place < len(order):
            return True
    return False
