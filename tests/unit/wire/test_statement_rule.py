"""Each error about the attributes of a rule names the attribute and the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_resilience.wire.api_error import ApiError
from pytest_resilience.wire.go_json import decode
from pytest_resilience.wire.statement_rule import StatementRule, glob_matcher, read_rule


def read(protocol: str = "postgres", onto: dict[str, Any] | None = None, **attributes: Any) -> StatementRule:
    """Read attributes that went through JSON, as from a request."""
    return read_rule(decode(json.dumps(attributes).encode()), protocol, onto)


def test_attributes_come_back_as_they_were_sent() -> None:
    rule = read(verb="update", act="error", code="40001", matching="campaigns", nth=2)
    assert rule.as_json() == {"verb": "update", "act": "error", "matching": "campaigns", "nth": 2, "code": "40001"}
    assert read("postgres", None, **rule.as_json()) == rule


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "verb: missing"),
        ({"verb": "commit"}, "act: missing"),
        ({"verb": "COMMIT", "act": "reset"}, "verb must be one word in lower case"),
        ({"verb": "begin work", "act": "reset"}, "verb must be one word in lower case"),
        ({"verb": "commit", "act": "explode"}, "act must be one of none, error,"),
        ({"verb": "commit", "act": "error"}, "code: missing; act error needs it"),
        ({"verb": "commit", "act": "error", "code": "4001"}, "code must be the SQLSTATE of an error"),
        ({"verb": "commit", "act": "error", "code": "00000"}, "code must be the SQLSTATE of an error"),
        ({"verb": "commit", "act": "error", "code": "40001", "message": "a\0b"}, "message must not contain NUL"),
        ({"verb": "commit", "act": "reset", "code": "40001"}, "code has no use for act reset"),
        ({"verb": "commit", "act": "delay"}, "delay_ms: missing"),
        ({"verb": "commit", "act": "delay", "delay_ms": 0}, "delay_ms must be from 1"),
        ({"verb": "select", "act": "cut_answer"}, "act cut_answer needs either rows or bytes"),
        ({"verb": "select", "act": "cut_answer", "rows": 1, "bytes": 1}, "act cut_answer needs either rows or bytes"),
        ({"verb": "connect", "act": "cut_answer", "rows": 1}, "rows has no use for verb connect"),
        ({"verb": "commit", "act": "lose_answer", "close": "quietly"}, "close must be one of reset, silence"),
        ({"verb": "commit", "act": "reset", "close": "silence"}, "close has no use for act reset"),
        ({"verb": "commit", "act": "reset", "nth": 0}, "nth must be from 1"),
        ({"verb": "commit", "act": "reset", "after": -1}, "after must be from 0"),
        ({"verb": "commit", "act": "reset", "key": "x"}, "key has no use for protocol postgres"),
        (
            {"verb": "commit", "act": "reset", "chance": 1},
            "chance: no such attribute of a statement; there are verb, act,",
        ),
        ({"verb": "commit", "act": "reset", "matching": "re:("}, "matching: 're:(' is no regular expression"),
        ({"verb": 1, "act": "reset"}, "cannot unmarshal number into Go struct field StatementToxic.attributes.verb"),
        ({"verb": "commit", "act": "reset", "per_connection": 1}, "attributes.per_connection of type bool"),
    ],
)
def test_an_error_names_the_attribute(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiError) as raised:
        read(**attributes)
    assert raised.value.status == 400
    assert reason in raised.value.message


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"matching": "x", "act": "reset"}, "matching has no use for protocol redis"),
        ({"act": "cut_answer", "rows": 1}, "rows has no use for protocol redis"),
        ({"act": "error", "code": "LOADING\r\n"}, "code must be one line"),
    ],
)
def test_attributes_of_postgres_are_refused_for_redis(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        read("redis", verb="get", **attributes)


def test_an_update_changes_what_it_contains_and_null_is_the_default() -> None:
    before = read(verb="insert", act="error", code="40001", nth=2).as_json()
    assert read("postgres", before, code="40P01", nth=None).as_json() == {
        "verb": "insert",
        "act": "error",
        "code": "40P01",
    }


@pytest.mark.parametrize(
    ("matching", "text", "found"),
    [
        (None, "anything", True),
        ("CAMPAIGNS", "update campaigns", True),
        ("campaigns", "update contacts", False),
        (r"re:where\s+id", "select 1\nWHERE\n id = 2", True),
        (r"re:^where", "select 1 where id = 2", False),
    ],
)
def test_a_text_is_matched_in_any_case(matching: str | None, text: str, found: bool) -> None:
    assert StatementRule("select", "reset", matching=matching).text_matcher()(text) is found


def test_a_glob_matches_whole_names() -> None:
    assert [glob_matcher("service:*")(name) for name in ("service:1", "my service:1", "service")] == [
        True,
        False,
        False,
    ]
    assert glob_matcher(None)("")
