"""Play scenarios by pg8000, which has no pool: python pg8000_client.py URL."""

from __future__ import annotations

import contextlib
import sys
import urllib.parse

import pg8000.dbapi
from answers import TIMEOUT, Answer, Attempts, play_on, serve

PARTS = urllib.parse.urlsplit(sys.argv[1])
ARGUMENTS = {
    "user": PARTS.username or "",
    "password": urllib.parse.unquote(PARTS.password or ""),
    "host": PARTS.hostname,
    "port": PARTS.port,
    "database": PARTS.path.lstrip("/"),
    "timeout": TIMEOUT,
}


def code(error: Exception) -> str | None:
    fields = error.args[0] if error.args else None
    return fields.get("C") if isinstance(fields, dict) else None


attempts = Attempts(code)


def connect() -> None:
    pg8000.dbapi.connect(**ARGUMENTS).close()


def play(scenario: str) -> Answer:
    if scenario == "connect":
        return {"raised": attempts.call(connect), "checkout": attempts.call(connect)}
    connection = pg8000.dbapi.connect(**ARGUMENTS)
    answer = play_on(connection, scenario, attempts, lambda statement: connection.cursor().execute(statement))
    with contextlib.suppress(Exception):
        connection.close()
    return {**answer, "checkout": attempts.call(connect)}


serve("pg8000", play)
