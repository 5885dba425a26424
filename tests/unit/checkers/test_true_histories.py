"""The checkers of reads accept every history of a correct store, and find one spoiled read or list in it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_resilience.checkers import (
    Checker,
    bounded_staleness,
    monotonic_reads,
    no_cached_errors,
    no_cross_talk,
    no_lost_writes,
    no_phantoms,
    no_resurrection,
    read_your_writes,
)
from pytest_resilience.history import History
from pytest_resilience.operation import Operation
from tests.support.histories import Mix, spoiled, true_history

CHECKERS = [
    no_lost_writes(),
    no_phantoms(),
    no_cross_talk(),
    no_resurrection(),
    no_cached_errors(),
    read_your_writes(),
    monotonic_reads(),
    bounded_staleness(0.0),
    bounded_staleness(0.0, under_fault=0.0),
]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    return Mix(
        clients=draw(st.integers(1, 5)),
        keys=draw(st.integers(1, 3)),
        operations=draw(st.integers(5, 60)),
        info=draw(st.sampled_from([0.0, 0.15, 0.5])),
        fail=draw(st.sampled_from([0.0, 0.1])),
        ids=draw(st.booleans()),
        versions=draw(st.booleans()),
        late=draw(st.sampled_from([0.05, 0.5, 10.0])),
    )


seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("checker", CHECKERS, ids=repr)
@quick
@given(seed=seeds, mix=mixes())
def test_a_correct_store_is_never_accused(checker: Checker, seed: int, mix: Mix) -> None:
    verdict = checker(true_history(random.Random(seed), mix))
    assert verdict.kind != "violated", f"{verdict.why}: {verdict.witness}"
    assert verdict.witness == ()


@pytest.mark.parametrize("versions", [True, False])
def test_a_correct_store_decides_every_promise(versions: bool) -> None:
    true = true_history(random.Random(1), Mix(operations=200, versions=versions))
    assert {checker.name: checker(true).kind for checker in CHECKERS} == {checker.name: "ok" for checker in CHECKERS}


def calm(seed: int, **fields: Any) -> History:
    """Return a history in which each operation succeeds, no two overlap, and so nothing is concurrent."""
    return true_history(
        random.Random(seed), Mix(**{"clients": 1, "operations": 40, "info": 0.0, "fail": 0.0, **fields})
    )


def assert_finds(checker: Checker, broken: History, read: Operation) -> None:
    verdict = checker(broken)
    assert verdict.kind == "violated", verdict
    assert read.index in [each.index for each in verdict.witness], verdict
    assert len(verdict.witness) <= 10
    assert [each.index for each in verdict.witness] == sorted(each.index for each in verdict.witness)


@quick
@given(seed=seeds)
def test_a_spoiled_final_list_is_a_lost_write(seed: int) -> None:
    true = calm(seed, kinds=("create", "read", "update", "update", "list"))
    last = true.operations[-1]
    for key in last.value:
        rest = {other: value for other, value in last.value.items() if other != key}
        assert_finds(no_lost_writes(), spoiled(true, last.index, value=rest), last)


@quick
@given(seed=seeds, versions=st.booleans())
def test_an_earlier_value_in_a_read_is_stale(seed: int, versions: bool) -> None:
    true = calm(seed, kinds=("create", "read", "update", "update"), versions=versions, keys=1)
    written = [each for each in true.operations if each.f in ("create", "update") and each.type == "ok"]
    for read in true.operations:
        before = [each for each in written if each.end < read.time]
        if read.f != "read" or len(before) < 2:
            continue
        old = before[-2]
        broken = spoiled(true, read.index, value=old.value, version=old.version)
        for checker in (read_your_writes(), bounded_staleness(0.0, under_fault=0.0)):
            assert_finds(checker, broken, read)
        if any(
            each.time < read.time and each.value == before[-1].value for each in true.operations if each.f == "read"
        ):
            assert_finds(monotonic_reads(), broken, read)


@quick
@given(seed=seeds, lists=st.booleans())
def test_a_deleted_value_in_a_later_read_has_returned(seed: int, lists: bool) -> None:
    true = calm(seed, keys=2)
    for read in true.operations:
        deleted = [
            (write, delete)
            for delete in true.operations
            if delete.f == "delete" and delete.type == "ok" and delete.end < read.time
            for write in true.operations
            if write.f == "create" and write.type == "ok" and write.key == delete.key and write.end < delete.time
        ]
        if not deleted or read.f != ("list" if lists else "read"):
            continue
        write, _ = deleted[-1]
        value = {**read.value, write.key: write.value} if lists else write.value
        broken = spoiled(true, read.index, key=None if lists else write.key, value=value, version=None)
        assert_finds(no_resurrection(), broken, read)


@quick
@given(seed=seeds, mix=mixes(), number=st.integers(0, 1000))
def test_a_value_that_nobody_wrote_is_a_phantom(seed: int, mix: Mix, number: int) -> None:
    true = true_history(random.Random(seed), mix)
    created = {each.key: each.end for each in true.operations if each.f == "create" and each.type == "ok"}
    reads = [
        each
        for each in true.operations
        if each.f == "read" and each.end > created.get(each.key, 1e9) and each.type == "ok"
    ]
    deletes = {each.key for each in true.operations if each.f == "delete"}
    if reads and (read := reads[number % len(reads)]).key not in deletes and read.time > created[read.key]:
        assert_finds(no_phantoms(), spoiled(true, read.index, value="nobody's"), read)


@quick
@given(seed=seeds, mix=mixes())
def test_the_value_of_another_key_is_cross_talk(seed: int, mix: Mix) -> None:
    true = true_history(random.Random(seed), mix)
    read = true.operations[-1]
    values = read.value if read.f == "list" and read.type == "ok" else {}
    for key, value in values.items():
        if any(each.value == value and each.key is None for each in true.operations):
            continue
        assert_finds(no_cross_talk(), spoiled(true, read.index, value={**values, f"not {key}": value}), read)
