"""The number of workers that a pool lacks."""

from __future__ import annotations

from pytest_resilience.in_process.replaced_workers import Headcounts

POOL, OTHER = 1, 2  # process ids of parents


def test_no_worker_may_end_without_the_option() -> None:
    headcounts = Headcounts(may_be_replaced=False)
    headcounts.note([POOL])
    assert headcounts.dead({"a": POOL}, now=[POOL], struck=[]) == ["a"]
    assert headcounts.dead({"a": POOL}, now=[POOL], struck=["a"]) == []


def test_a_pool_lacks_as_many_as_it_has_fewer_than_before() -> None:
    headcounts = Headcounts(may_be_replaced=True)
    headcounts.note([POOL, POOL, OTHER])
    ended = {"a": POOL, "b": POOL, "c": OTHER}
    assert headcounts.dead(ended, now=[POOL, POOL, OTHER], struck=[]) == []
    assert headcounts.dead(ended, now=[POOL, OTHER], struck=[]) == ["a"]
    assert headcounts.dead(ended, now=[POOL, POOL, POOL], struck=[]) == ["c"]
    assert headcounts.dead(ended, now=[], struck=[]) == ["a", "b", "c"]


def test_one_that_a_fault_has_ended_may_be_missing_beside_one_that_was_replaced() -> None:
    headcounts = Headcounts(may_be_replaced=True)
    headcounts.note([POOL, POOL])
    assert headcounts.dead({"a": POOL, "b": POOL}, now=[POOL], struck=["a"]) == []
    assert headcounts.dead({"a": POOL, "b": POOL}, now=[], struck=["a"]) == ["b"]


def test_the_least_number_before_counts() -> None:
    headcounts = Headcounts(may_be_replaced=True)
    headcounts.note([])
    headcounts.note([POOL])
    assert headcounts.dead({"a": POOL}, now=[], struck=[]) == []
