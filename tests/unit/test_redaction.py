"""Texts without remembered passwords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from pytest_resilience import redaction
from pytest_resilience.redaction import (
    Private,
    new_password,
    redact_report,
    redact_subtest,
    redacted,
    redacted_command,
    redacted_path,
    remember,
    remember_environment,
    remember_url,
    scrubbed,
)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(redaction, "_passwords", {})


def test_a_text_is_unchanged_while_no_password_is_remembered():
    value = ["postgresql://a:b@c/d"]
    assert redacted(value[0]) == "postgresql://a:b@c/d"
    assert redact_report(value) is value


def test_texts_without_a_password_are_ignored():
    for text in ("postgresql://host/database", "host:5432", "", "http://[broken"):
        remember_url(text)
    remember(None)
    assert redaction._passwords == {}


def test_a_new_password_is_long_random_and_remembered():
    one, other = new_password(), new_password()
    assert one != other
    assert len(one) == 36
    assert redacted(f"<{one}> {other!r}") == "<***> '***'"


@pytest.mark.parametrize("size", [4, 20, 35])
def test_the_rest_of_a_shortened_password_is_replaced(size):
    password = new_password()
    assert redacted(f"dsn = 'postgresql://postgres:{password[:size]}...b'") == "dsn = 'postgresql://postgres:***...b'"
    assert redacted(f"dsn = 'a...{password[-size:]}@b'") == "dsn = 'a...***@b'"


def test_a_short_password_is_replaced_where_it_must_be_one():
    remember("postgres")
    assert redacted("postgresql://postgres:postgres@host/postgres") == "postgresql://postgres:***@host/postgres"
    assert redacted("password = 'postgres', postgres is up") == "password = '***', postgres is up"
    assert redacted("host=x password=postgres dbname=postgres") == "host=x password=*** dbname=postgres"


@pytest.mark.parametrize("password", ["correct horse/battery", 'it\'s "quoted" \\ twice', "näher am Rand"])
def test_every_written_form_of_a_password_is_replaced(password):
    from json import dumps
    from urllib.parse import quote, quote_plus

    remember_url(f"postgresql://joe:{quote(password, safe='')}@host/shop")
    for written in (password, repr(password), dumps(password), quote(password, safe=""), quote_plus(password)):
        assert redacted(f"<{written}>").strip("<>\"'") == "***"


def test_a_report_is_changed_in_place_and_other_objects_are_left_alone():
    class Entry:
        def __init__(self, lines):
            self.lines = lines

        def toterminal(self):
            """Mark this as an object of pytest."""

    class Other:
        text = ""

    password = new_password()
    other = Other()
    other.text = password
    report = Entry([f"E   {password}", (password, 3), Entry([password]), other, None])
    assert redact_report(report) is report
    assert report.lines[:2] == ["E   ***", ("***", 3)]
    assert report.lines[2].lines == ["***"]
    assert other.text == password


def test_the_context_of_a_subtest_is_replaced_and_the_values_of_its_test_are_not():
    @dataclass(frozen=True)
    class Context:
        msg: str | None
        kwargs: Mapping[str, object]

    password = new_password()
    given = {"url": f"redis://:{password}@host", "n": 1}
    context = Context(password, given)
    redact_subtest(context)
    assert context == Context("***", {"url": "redis://:***@host", "n": 1})
    assert given["url"] == f"redis://:{password}@host"
    redact_subtest("a context of another plugin")


def test_a_private_dictionary_shows_how_many_values_it_has_and_none_of_them():
    assert repr(Private(A="1", B="2")) == f"{Private(C='3', D='4')}" == "<2 values, not shown>"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["serve", "--password", "abc"], "serve --password ***"),
        (["serve", "--password=abc", "--port=80"], "serve --password=*** --port=80"),
        (["serve", "--password", "--verbose"], "serve --password --verbose"),
        (["env", "API_TOKEN=abc", "PWD=/root", "serve"], "env API_TOKEN=*** PWD=/root serve"),
        (["sh", "-c", "serve --api-key abc --author me"], "sh -c serve --api-key *** --author me"),
        (["serve", "--dsn", "amqp://a:b@h/x"], "serve --dsn amqp://a:***@h/x"),
        (["curl", "-H", "Authorization: Bearer abcdefgh1234"], "curl -H Authorization: Bearer ***"),
        (["serve", "sk_live_1", "x-sk_live_1-y"], "serve $STRIPE x-$STRIPE-y"),
        (["serve", "me"], "serve $USER_TOKEN"),
        (["serve", "some"], "serve some"),
    ],
)
def test_a_command_is_shown_without_its_secrets(argv: list[str], expected: str) -> None:
    environment = {"STRIPE": "sk_live_1", "USER_TOKEN": "me"}
    assert " ".join(redacted_command(argv, environment)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://ann:s3:c/r@t@host/shop is down", "postgresql://ann:***@host/shop is down"),
        ('{"api_key": "abc", "id": 3}', '{"api_key": "***", "id": 3}'),
        ("create role x login password 'abc'", "create role x login password '***'"),
        ("password authentication failed for user", "password authentication failed for user"),
        ("passed: 3, author=me, tokens left", "passed: 3, author=me, tokens left"),
    ],
)
def test_a_log_is_shown_without_values_that_it_names_secrets(text: str, expected: str) -> None:
    assert scrubbed(text) == expected


def test_a_path_is_shown_without_secrets_and_not_too_long() -> None:
    assert redacted_path("/a?token=abc&limit=5&flag&code=1") == "/a?token=***&limit=5&flag&code=***"
    assert redacted_path("/a?q=" + "x" * 30) == "/a?q=***"
    assert redacted_path("/" + "x" * 300) == "/" + "x" * 119 + "..."


def test_the_secrets_of_an_environment_are_remembered() -> None:
    remember_environment(
        {"THEIR_TOKEN": "ab12cd34ef56gh", "URL": "redis://:zz99yy88xx77ww@h", "MODE": "testing-the-mode"}
    )
    assert redacted("ab12cd34ef56gh zz99yy88xx77ww testing-the-mode") == "*** *** testing-the-mode"
