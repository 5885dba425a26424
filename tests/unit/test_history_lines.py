"""Each record that is written is read as it was. A malformed line is an error with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.errors import SetupError
from pytest_resilience.history import History
from pytest_resilience.history_lines import line_of, read_records
from pytest_resilience.operation import OUTCOMES, PHASES, FaultMark, Operation, PhaseMark, ProbeMark, Record, SkipMark
from pytest_resilience.redaction import is_secret, new_password

OPERATION: dict[str, Any] = {"process": 0, "f": "read", "type": "ok", "time": 1.0, "end": 1.5}

numbers = st.integers(0, 10**6)
seconds = st.integers(0, 10**9).map(lambda microseconds: microseconds / 10**6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10).filter(
    lambda text: not any(c in text for c in ":=")
)
words = texts | st.none()
names = texts.filter(lambda text: not is_secret(text))  # the value of a secret is hidden
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    begin, lasted = draw(seconds), draw(seconds)
    return Operation(
        index=0,
        process=draw(numbers),
        f=draw(texts),
        key=draw(words),
        value=draw(values),
        type=draw(st.sampled_from(OUTCOMES)),
        time=begin,
        end=begin + lasted,
        version=draw(numbers | st.none()),
        expected=draw(numbers | st.none()),
        source=draw(words),
        state=draw(words),
        node=draw(words),
        error=draw(words),
        episode=draw(numbers),
        phase=draw(st.sampled_from(PHASES)),
        client=draw(numbers),
    )


strikes = st.builds(
    FaultMark, st.just("strike"), texts, seconds, numbers, touched=st.none(), unit=st.just(""), episode=numbers
)
others = (
    st.builds(SkipMark, st.sampled_from(["strike", "heal"]), texts, texts, seconds, numbers)
    | st.builds(ProbeMark, texts, values, seconds, numbers)
    | st.builds(PhaseMark, st.sampled_from(PHASES), seconds, numbers)
)


@given(st.lists(operations() | strikes | others, max_size=6))
def test_each_record_is_read_as_it_was(records: list[Record]) -> None:
    given = [each._replace(index=n) if isinstance(each, Operation) else each for n, each in enumerate(records)]
    assert read_records(map(line_of, given), "here") == given


@given(operations())
def test_the_line_of_an_operation_is_the_json_of_its_keys(operation: Operation) -> None:
    assert json.loads(line_of(operation)) == operation.to_json()


class Color:
    def __str__(self) -> str:
        return "red"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        ({1: {2: Color()}}, {"1": {"2": "red"}}),
        (b"caf\xc3\xa9\xff", "café\\xff"),
        (float("inf"), "inf"),
        (Color(), "red"),
    ],
)
def test_other_objects_become_plain_data(value: object, found: object) -> None:
    line = line_of(Operation(0, 0, "read", value=value))
    assert json.loads(line)["value"] == found


def test_a_line_has_no_secrets() -> None:
    password = new_password()
    url = f"redis://joe:{password}@host"
    record = Operation(
        0, 0, f"a {password}", password, {"url": url, "api_key": "k1", "n": [url]}, error=url, node=password
    )
    line = line_of(record) + line_of(ProbeMark("ready", {"error": url}, 0.0)) + line_of(SkipMark("heal", "x", url, 0.0))
    assert password not in line
    assert "k1" not in line
    assert json.loads(line.splitlines()[0])["value"] == {
        "url": "redis://joe:***@host",
        "api_key": "***",
        "n": ["redis://joe:***@host"],
    }


def test_optional_keys_may_be_missing() -> None:
    lines = [
        json.dumps(OPERATION | {"process": 4, "key": 7}),
        "",
        json.dumps({"mark": "phase", "phase": "heal", "time": 2}),
    ]
    assert read_records(lines, "here") == [
        Operation(0, 4, "read", "7", None, "ok", 1.0, 1.5, client=4),
        PhaseMark("heal", 2, 1),
    ]


def test_operations_without_a_number_get_that_of_their_begin() -> None:
    lines = [json.dumps(OPERATION | {"time": begin, "end": 9.0}) for begin in (3.0, 1.0, 2.0)]
    records = read_records(lines, "here")
    assert [each.index for each in records if isinstance(each, Operation)] == [2, 0, 1]


def test_an_operation_that_never_ended_has_the_end_of_the_history() -> None:
    lines = [
        json.dumps(OPERATION | {"type": "info", "end": None}),
        json.dumps({"mark": "phase", "phase": "heal", "time": 7.0}),
    ]
    first = read_records(lines, "here")[0]
    assert isinstance(first, Operation)
    assert first.end == 7.0


def test_a_heal_without_a_number_heals_the_last_open_strike_of_its_label(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    marks = [
        ("strike", "a", 1),
        ("strike", "b", 2),
        ("strike", "a", 3),
        ("heal", "a", 4),
        ("heal", "b", 5),
        ("heal", "a", 6),
    ]
    file.write_text("".join(json.dumps({"mark": m, "label": label, "time": t}) + "\n" for m, label, t in marks))
    assert [(fault.label, fault.struck_at, fault.healed_at) for fault in History.load(file).faults] == [
        ("a", 1, 6),
        ("b", 2, 5),
        ("a", 3, 4),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "expected an object, got [1]"),
        (
            '{"mark": "hael"}',
            "unknown mark 'hael'; did you mean 'heal' or 'phase'?; there are: strike, heal, skip, probe, phase",
        ),
        ('{"mark": "heal", "label": "redis.kill", "time": 1}', "heal of 'redis.kill' without an earlier strike"),
        (
            '{"mark": "phase", "phase": "end", "time": 1}',
            "'phase' must be one of baseline, run, heal, recovery, got 'end'",
        ),
        ('{"process": 0, "f": "read"}', "lacks 'type', 'time', 'end'"),
        (json.dumps(OPERATION | {"vlaue": 1}), "unknown key 'vlaue'; did you mean 'value'?"),
        (json.dumps(OPERATION | {"type": "unknown"}), "'type' must be one of ok, fail, info, got 'unknown'"),
        (json.dumps(OPERATION | {"time": "1"}), "'time' must be a number of seconds, got '1'"),
        (json.dumps(OPERATION | {"end": None}), "'end' must be a number of seconds, got None"),
        (json.dumps(OPERATION | {"end": 0.5}), "it ends at 0.5, before it begins at 1.0"),
        (json.dumps(OPERATION | {"version": "3"}), "'version' must be an integer or null, got '3'"),
        (json.dumps(OPERATION | {"process": True}), "'process' must be an integer, got True"),
        (json.dumps(OPERATION | {"error": 503}), "'error' must be text or null, got 503"),
        (json.dumps(OPERATION | {"key": ["a"]}), "'key' must be text or null, got ['a']"),
        (json.dumps(OPERATION | {"f": None}), "'f' must be text, got None"),
    ],
)
def test_a_malformed_line_is_an_error_with_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(f"{json.dumps(OPERATION)}\n\n{line}\n{json.dumps(OPERATION)}\n")
    with pytest.raises(SetupError) as caught:
        History.load(file)
    assert str(caught.value).startswith(f"{file}:3: {message}")


def test_a_line_that_was_being_written_at_a_kill_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(json.dumps(OPERATION) + "\n" + json.dumps(OPERATION)[:-9])
    with pytest.raises(SetupError, match=r":2: .*the line has no end: was the run killed"):
        History.load(file)


def test_a_file_that_is_no_text_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(SetupError, match=":1: "):
        History.load(file)


def test_two_histories_in_one_file_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(f"{json.dumps(OPERATION | {'index': 3})}\n" * 2)
    with pytest.raises(SetupError, match="two operations have the index 3"):
        History.load(file)
