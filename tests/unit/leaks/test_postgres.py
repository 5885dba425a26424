"""The description of a session has no secrets."""

from __future__ import annotations

import pytest

from pytest_resilience.leaks.compare import UNNAMED
from pytest_resilience.leaks.postgres import (
    MAX_QUERY_CHARS,
    SessionRow,
    client_endpoints,
    lock_name,
    resources,
    without_literals,
)


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
    ("row", "name"),
    [((0, 42, 1), "42"), ((1, 0, 1), str(1 << 32)), ((0xFFFFFFFF, 0xFFFFFFF9, 1), "-7"), ((3, 0xFFFFFFFC, 2), "3,-4")],
)
def test_a_lock_is_named_by_its_arguments(row: tuple[int, int, int], name: str) -> None:
    assert lock_name(*row) == name


ROW = {
    "pid": 7,
    "since": "now",
    "name": "",
    "host": "127.0.0.1",
    "port": 5,
    "state": "idle",
    "query": "select 'x'",
    "locks": [[0, 42, 1]],
}


def test_a_session_and_its_locks_are_resources() -> None:
    session = SessionRow.from_row(ROW)
    assert [(resource.kind, resource.name) for resource in resources([session], "postgres")] == [
        ("postgres", UNNAMED),
        ("lock", "42"),
    ]
    assert session.describe() == "a session, idle, last query: select ?"
    empty = SessionRow.from_row({**ROW, "state": None, "query": None, "locks": None})
    assert empty.describe() == "a session"
    assert len(resources([empty], "postgres")) == 1


def test_clients_are_in_the_order_of_their_processes_when_the_ids_begin_again() -> None:
    came = [
        ("21:00:00.2+00", 32001, 1),
        ("21:00:00.1+00", 32002, 2),  # its start time was read before that of the session above
        ("21:00:07+00", 32700, 3),
        ("21:00:08+00", 310, 4),
        ("21:00:08.5+00", 311, 5),
    ]
    sessions = [SessionRow.from_row({**ROW, "since": since, "pid": pid, "port": port}) for since, pid, port in came]
    assert client_endpoints(reversed(sessions)) == [("127.0.0.1", number) for number in (1, 2, 3, 4, 5)]


def test_a_session_over_a_unix_socket_has_no_port() -> None:
    assert client_endpoints([SessionRow.from_row({**ROW, "host": None, "port": -1})]) == [("", -1)]
