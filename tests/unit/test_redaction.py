"""Passwords that are remembered, and texts without them."""

from __future__ import annotations

import pytest

from pytest_resilience import redaction
from pytest_resilience.redaction import Private, new_password, redact, redacted, remember, remember_url


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(redaction, "_passwords", {})


def test_a_text_stays_as_it_is_while_no_password_is_known():
    value = ["postgresql://a:b@c/d"]
    assert redacted(value[0]) == "postgresql://a:b@c/d"
    assert redact(value) is value


def test_no_password_is_remembered_where_there_is_none():
    for text in ("postgresql://host/database", "host:5432", "", "http://[broken"):
        remember_url(text)
    remember(None)
    assert redaction._passwords == {}


def test_a_new_password_is_long_random_and_known():
    one, other = new_password(), new_password()
    assert one != other
    assert len(one) == 36
    assert redacted(f"<{one}> {other!r}") == "<***> '***'"


@pytest.mark.parametrize("size", [4, 20, 35])
def test_the_rest_of_a_password_that_was_cut_is_replaced_too(size):
    password = new_password()
    assert redacted(f"dsn = 'postgresql://postgres:{password[:size]}...b'") == "dsn = 'postgresql://postgres:***...b'"
    assert redacted(f"dsn = 'a...{password[-size:]}@b'") == "dsn = 'a...***@b'"


def test_a_short_password_is_replaced_where_it_must_be_one():
    remember("postgres")
    assert redacted("postgresql://postgres:postgres@host/postgres") == "postgresql://postgres:***@host/postgres"
    assert redacted("password = 'postgres', postgres is up") == "password = '***', postgres is up"
    assert redacted("host=x password=postgres dbname=postgres") == "host=x password=*** dbname=postgres"


@pytest.mark.parametrize("password", ["correct horse/battery", 'it\'s "quoted" \\ twice', "näher am Rand"])
def test_every_form_of_a_password_is_known(password):
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
            """Mark this as one of pytest's."""

    class Other:
        text = ""

    password = new_password()
    other = Other()
    other.text = password
    report = Entry([f"E   {password}", (password, 3), Entry([password]), other, None])
    assert redact(report) is report
    assert report.lines[:2] == ["E   ***", ("***", 3)]
    assert report.lines[2].lines == ["***"]
    assert other.text == password


def test_a_private_dictionary_shows_how_many_values_it_has_and_none_of_them():
    assert repr(Private(A="1", B="2")) == f"{Private(C='3', D='4')}" == "<2 values, not shown>"
