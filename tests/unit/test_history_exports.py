"""Exports are what Jepsen, elle-cli and Porcupine read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_resilience.errors import SetupError
from pytest_resilience.exports import MAX_INT64
from pytest_resilience.history import History
from pytest_resilience.operation import Operation, Outcome


def operation(
    index: int, process: int, f: str, value: Any, times: tuple[float, float], type_: Outcome = "ok", **others: Any
) -> Operation:
    return Operation(index, process, f, others.pop("key", "1"), value, type_, *times, **others)


REGISTER = [
    operation(0, 0, "update", "w0", (0.001, 0.004), version=2, source="postgres"),
    operation(1, 1, "read", "w0", (0.002, 0.003)),
    operation(2, 1, "read", None, (0.004, 0.005), "fail", error="503"),
    operation(3, 1, "update", "w1", (0.006, 0.007), "info", error="ReadTimeout"),
    operation(4, 0, "delete", None, (0.007, 0.008), expected=2),
    operation(5, 0, "update", "w2", (0.009, 0.01), "fail", error="412"),
    operation(6, 2, "read", None, (0.011, 0.012), "info", error="ReadTimeout"),
]


def export(tmp_path: Path, operations: list[Operation], kind: str) -> list[str]:
    History.of(operations).export(tmp_path / "file", kind)
    return (tmp_path / "file").read_text(encoding="utf-8").splitlines()


def events(tmp_path: Path, operations: list[Operation]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in export(tmp_path, operations, "elle")]


def test_edn_has_two_events_for_each_operation_in_the_order_of_time(tmp_path: Path) -> None:
    lines = export(tmp_path, REGISTER, "edn")
    assert lines[:4] == [
        '{:index 0, :type :invoke, :process 0, :time 1000000, :f :update, :value "w0", :key "1"}',
        '{:index 1, :type :invoke, :process 1, :time 2000000, :f :read, :value nil, :key "1"}',
        '{:index 2, :type :ok, :process 1, :time 3000000, :f :read, :value "w0", :key "1", :phase "run", :episode 1}',
        (
            '{:index 3, :type :ok, :process 0, :time 4000000, :f :update, :value "w0", :key "1", :version 2, '
            ':source "postgres", :phase "run", :episode 1}'
        ),
    ]
    kinds = [re.findall(r":type :(\w+), :process (\d)", line)[0] for line in lines]
    assert kinds == [
        ("invoke", "0"),
        ("invoke", "1"),
        ("ok", "1"),
        ("ok", "0"),
        ("invoke", "1"),  # the read that failed is left out
        ("invoke", "0"),  # it began when the other one ended, so they are concurrent
        ("info", "1"),
        ("ok", "0"),
        ("invoke", "0"),
        ("fail", "0"),
        ("invoke", "2"),
        ("info", "2"),
    ]


def test_edn_has_the_steps_of_a_transaction_with_keywords(tmp_path: Path) -> None:
    value = [["append", 1, 2], ["r", 1, None]]
    line = export(tmp_path, [operation(0, 0, "txn", value, (0.000001234, 1.0), key=None)], "edn")[0]
    assert line == ("{:index 0, :type :invoke, :process 0, :time 1234, :f :txn, :value [[:append 1 2] [:r 1 nil]]}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nil"),
        (True, "true"),
        (1.5, "1.5"),
        ('say "é"\n', '"say \\"é\\"\\n"'),
        ((1, {"a b": [2]}), '[1 {"a b" [2]}]'),
        ({3}, "[3]"),
    ],
)
def test_edn_has_each_value_of_a_history(tmp_path: Path, value: object, text: str) -> None:
    line = export(tmp_path, [operation(0, 0, "my work", value, (0.0, 1.0), key=None)], "edn")[0]
    assert line.endswith(f':f "my work", :value {text}}}')


def test_elle_has_a_read_or_write_of_a_key_as_a_transaction_of_one_step(tmp_path: Path) -> None:
    found = events(tmp_path, REGISTER)
    assert found[0] == {
        "index": 0,
        "type": "invoke",
        "process": 0,
        "time": 1000000,
        "f": "txn",
        "value": [["w", "1", "w0"]],
    }
    steps = [(each["type"], each["value"][0]) for each in found if each["process"] == 1]
    assert steps == [
        ("invoke", ["r", "1", None]),
        ("ok", ["r", "1", "w0"]),
        ("invoke", ["w", "1", "w1"]),
        ("info", ["w", "1", "w1"]),
    ]
    assert [each["index"] for each in found] == list(range(12))


def test_elle_has_other_operations_as_they_are(tmp_path: Path) -> None:
    transfer = {"from": 1, "to": 2, "amount": 3}
    first, *_, last = events(
        tmp_path,
        [
            operation(0, 0, "transfer", transfer, (0.0, 1.0), key=None),
            operation(1, 0, "list", {"1": "a"}, (2.0, 3.0), key=None),
        ],
    )
    assert (first["f"], first["value"]) == ("transfer", transfer)
    assert (last["f"], last["value"]) == ("list", {"1": "a"})


def test_porcupine_has_the_operations_that_decide(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in export(tmp_path, REGISTER, "porcupine")]
    assert lines == [
        {
            "ClientId": 0,
            "Input": {"op": "update", "key": "1", "value": "w0"},
            "Call": 1000000,
            "Output": {"value": "w0", "version": 2},
            "Return": 4000000,
        },
        {
            "ClientId": 1,
            "Input": {"op": "read", "key": "1", "value": None},
            "Call": 2000000,
            "Output": {"value": "w0"},
            "Return": 3000000,
        },
        {
            "ClientId": 1,
            "Input": {"op": "update", "key": "1", "value": "w1"},
            "Call": 6000000,
            "Output": {"value": None, "unknown": True},
            "Return": MAX_INT64,
        },
        {
            "ClientId": 0,
            "Input": {"op": "delete", "key": "1", "value": None, "expected": 2},
            "Call": 7000000,
            "Output": {"value": None},
            "Return": 8000000,
        },
    ]


def test_events_of_one_moment_keep_the_order_of_their_process(tmp_path: Path) -> None:
    """Two operations that share a moment are concurrent, unless one process performed them."""
    moments = [operation(0, 0, "update", "a", (1.0, 1.0)), operation(1, 0, "read", "a", (1.0, 1.0))]
    other = operation(2, 1, "read", "a", (1.0, 2.0))
    assert [(each["type"], each["process"]) for each in events(tmp_path, [*moments, other])] == [
        ("invoke", 0),
        ("invoke", 1),
        ("ok", 0),
        ("invoke", 0),
        ("ok", 0),
        ("ok", 1),
    ]


def test_an_unknown_format_is_an_error_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no export 'elie'; did you mean 'elle'.*there are: edn, elle, porcupine"):
        History().export(tmp_path / "file", "elie")
    assert not (tmp_path / "file").exists()


def test_text_that_no_encoding_has_is_escaped(tmp_path: Path) -> None:
    assert export(tmp_path, [operation(0, 0, "read", "\ud800", (0.0, 1.0))], "edn")[1].count("\\ud800") == 1
