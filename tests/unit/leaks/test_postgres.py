"""The description of a session has no secrets."""

from __future__ import annotations

import pytest

from pytest_resilience.leaks.compare import UNNAMED
from pytest_resilience.leaks.postgres import (
    SessionRow,
    client_endpoints,
    lock_name,
    resources,
)


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
