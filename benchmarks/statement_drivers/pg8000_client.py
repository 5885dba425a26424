"""Play scenarios by pg8000, which has no pool: python pg8000_client.py URL."""

from __future__ import annotations

import contextlib
import sys
import urllib.parse

import pg8000.dbapi
from answers import TIMEOUT, Answer, Attempts, serve

PARTS = urllib.parse.urlsplit(sys.argv[1])
ARGUMENTS = {
    "user": PARTS.username or "",
    "password": urllib.parse.unquote(PARTS.password or ""),
    "host": PARTS.hostname,
    "port": PARTS.port,
    "database": PARTS.path.lstrip("/"),
    "timeout": TIMEOUT,
}
INSERT, READ, NEXT = "INSERT INTO acts VALUES (1)", "SELECT n FROM generate_series(1, 5) AS n", "SELECT 1"


def code(error: Exception) -> str | None:
    fields = error.args[0] if error.args else None
    return fields.get("C") if isinstance(fields, dict) else None


attempts = Attempts(code)


def execute(connection: pg8000.dbapi.Connection, statement: str) -> None:
    connection.cursor().execute(statement)


def connect() -> None:
    pg8000.dbapi.connect(**ARGUMENTS).close()


def play(scenario: str) -> Answer:
    if scenario == "connect":
        return {"raised": attempts.call(connect), "checkout": attempts.call(connect)}
    connection = pg8000.dbapi.connect(**ARGUMENTS)
    connection.autocommit = scenario in {"alone", "read"}
    raised = attempts.call(execute, connection, READ if scenario == "read" else INSERT)
    if scenario == "commit":
        raised = attempts.call(connection.commit)
    after = attempts.call(execute, connection, NEXT)
    with contextlib.suppress(Exception):
        connection.rollback() if raised else connection.commit()
    with contextlib.suppress(Exception):
        connection.close()
    return {"raised": raised, "next": after, "checkout": attempts.call(connect)}


serve("pg8000", play)
