"""Play scenarios by psycopg2 and its pool: python psycopg2_client.py URL."""

from __future__ import annotations

import contextlib
import sys

import psycopg2
import psycopg2.extensions
from answers import Answer, Attempts, serve
from psycopg2.pool import SimpleConnectionPool

URL = sys.argv[1]
INSERT, READ, NEXT = "INSERT INTO acts VALUES (1)", "SELECT n FROM generate_series(1, 5) AS n", "SELECT 1"
attempts = Attempts(lambda error: getattr(error, "pgcode", None))


def execute(connection: psycopg2.extensions.connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def on(connection: psycopg2.extensions.connection, scenario: str) -> Answer:
    connection.autocommit = scenario in {"alone", "read"}
    raised = attempts.call(execute, connection, READ if scenario == "read" else INSERT)
    if scenario == "commit":
        raised = attempts.call(connection.commit)
    after = attempts.call(execute, connection, NEXT)
    with contextlib.suppress(Exception):
        connection.rollback() if raised else connection.commit()
    return {"raised": raised, "next": after}


def connect() -> None:
    psycopg2.connect(URL, connect_timeout=2).close()


def play(scenario: str) -> Answer:
    if scenario == "connect":
        return {"raised": attempts.call(connect), "checkout": attempts.call(connect)}
    pool = SimpleConnectionPool(1, 1, URL, connect_timeout=2)
    connection = pool.getconn()
    answer = on(connection, scenario)
    pool.putconn(connection)
    answer["checkout"] = attempts.call(lambda: execute(pool.getconn(), NEXT))
    pool.closeall()
    return answer


serve("psycopg2-binary", play)
