"""Transfers neither create nor destroy money."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.checkers import bank
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, Verdict


def read(balances: Any, index: int = 0, **fields: Any) -> Operation:
    return Operation(index, 0, fields.pop("f", "read"), value=balances, time=index, end=index + 0.5, **fields)


def verdict(*operations: Operation, **settings: Any) -> Verdict:
    return bank(10, **settings)(History.of(operations))


def test_reads_of_the_total_are_right() -> None:
    assert verdict(read({"a": 4, "b": 6}), read({"a": 10, "b": 0}, 1), read({"b": 1, "a": 9}, 2, f="list")).kind == "ok"


@pytest.mark.parametrize(
    ("balances", "problem"),
    [
        ({"a": 4, "b": 7}, "adds up to 11 in place of 10"),
        ({"a": 11, "b": -1}, "shows -1 as the balance of account b"),
        ({"a": 10, "b": None}, "shows None as the balance of account b"),
        ({"a": 10, "b": "gone"}, "shows 'gone' as the balance of account b"),
        ({"a": 10}, "has the accounts a in place of a, b"),
        ({"a": 4, "b": 6, "c": 0}, "has the accounts a, b, c in place of a, b"),
    ],
)
def test_a_wrong_read_is_its_own_witness(balances: dict[str, Any], problem: str) -> None:
    wrong = read(balances, 1)
    found = verdict(read({"a": 5, "b": 5}), wrong)
    assert (found.kind, found.why) == ("violated", f"the read of all balances from 1.000 s to 1.500 s {problem}")
    assert found.witness[-1] == wrong


def test_the_accounts_can_be_given() -> None:
    assert verdict(read({"a": 10}), accounts=["a", "b"]).witness == (read({"a": 10}),)
    assert verdict(read({"a": 10, "b": 0}), accounts=["b", "a"]).kind == "ok"


def test_balances_may_be_decimals_floats_and_texts() -> None:
    assert verdict(read({"a": Decimal("9.5"), "b": "0.50"})).kind == "ok"
    assert verdict(read({str(each): 0.1 for each in range(100)})).kind == "ok"


def test_only_reads_of_all_balances_count() -> None:
    others = read(None), read(7, key="a"), read({"a": 1}, type="info"), Operation(0, 0, "transfer", value={"a": 1})
    assert verdict(*others).kind == "unknown"
    assert verdict(*others, read({"a": 10})).kind == "ok"


@given(seed=st.integers(0, 10_000))
def test_one_changed_balance_in_a_true_history_is_found(seed: int) -> None:
    chance = random.Random(seed)
    balances = {"a": 4, "b": 6, "c": 0}
    reads = []
    for index in range(20):
        source, sink = chance.sample(sorted(balances), 2)
        amount = chance.randint(0, balances[source])
        balances = {**balances, source: balances[source] - amount, sink: balances[sink] + amount}
        reads.append(read(balances, index))
    assert verdict(*reads).kind == "ok"
    spoiled = chance.randrange(20)
    account = chance.choice("abc")
    value = {**reads[spoiled].value, account: reads[spoiled].value[account] + chance.choice([-1, 1])}
    reads[spoiled] = reads[spoiled]._replace(value=value)
    assert verdict(*reads).witness == (reads[spoiled],)
