"""The verb of a statement, and its text without secrets."""

from __future__ import annotations

import pytest

from pytest_resilience.wire.sql_text import MAX_QUERY_CHARS, statement_verb, without_literals


@pytest.mark.parametrize(
    ("query", "relative_path"),
    [
        ("select 1", "select ?"),
        ("select t1.x2 from t1 where y = -4.5e3", "select t1.x2 from t1 where y = -?"),
        ("select $1, $2", "select $1, $2"),
        ("select .5, 0xff, 1_000", "select ?, ?, ?"),
        ("alter role x password 'hunter2'", "alter role x password ?"),
        ("select 'it''s hunter2', 'x'", "select ?, ?"),
        ("select 'hunter\\', 'hunter2'", "select ?, ?"),
        ("select E'it\\'s hunter2', 'x'", "select ?, ?"),
        ("select e'\\\\', 'hunter2'", "select ?, ?"),
        ("select U&'hunter2', b'01', X'ff', n'hunter2'", "select ?, ?, ?, ?"),
        ("select 'hunter2", "select ?"),
        ("select E'hunter2\\'", "select ?"),
        ("do $$ hunter2 $$", "do ?"),
        ("do $x$ hunter2 $$ $x$, 'y'", "do ?, ?"),
        ("do $x$ hunter2", "do ?"),
        ("select \"it's\" from t where x = 'hunter2'", 'select "it\'s" from t where x = ?'),
        ('select "a""b\'c", \'hunter2\'', 'select "a""b\'c", ?'),
        ("select 1 -- hunter2\n, 2", "select ? , ?"),
        ("select /* hunter2 */ 1", "select ?"),
        ("select /* a /* b */ hunter2 */ 1", "select ?"),
        ("select /* hunter2", "select"),
        ("select\n\n  1", "select ?"),
        ("", ""),
    ],
)
def test_literals_are_replaced(query: str, relative_path: str) -> None:
    assert without_literals(query) == relative_path
    assert "hunter2" not in without_literals(query)


def test_a_long_query_is_cut() -> None:
    relative_path = without_literals("select " + ", ".join(f"column_{letter}" for letter in "abcdefghijklmnop"))
    assert len(relative_path) == MAX_QUERY_CHARS
    assert relative_path.endswith("...")


@pytest.mark.parametrize(
    ("query", "verb"),
    [
        ("select 1", "select"),
        ("  UPDATE t set x = 1", "update"),
        ("/* app:orders */ -- why\n insert into t values (1)", "insert"),
        ("/* a /* b */ c */ delete from t", "delete"),
        ("(select 1) union (select 2)", "select"),
        (";;commit;", "commit"),
        ("END", "commit"),
        ("abort", "rollback"),
        ("START TRANSACTION isolation level serializable", "begin"),
        ("with x as (select 1) update t set y = 2", "update"),
        ("WITH RECURSIVE x(n) AS (insert into t values (')') returning 1) select * from x", "select"),
        ('with "select" as materialized (select 1) insert into t select 1', "insert"),
        ("with", "with"),
        ("", ""),
        ("-- nothing", ""),
        ("1", ""),
    ],
)
def test_the_verb_is_the_first_word_of_the_statement(query: str, verb: str) -> None:
    assert statement_verb(query) == verb
