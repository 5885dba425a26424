"""Play scenarios by psycopg2 and its pool: python psycopg2_client.py URL."""

from __future__ import annotations

import sys

import psycopg2
import psycopg2.extensions
from answers import NEXT, Answer, Attempts, play_on, serve
from psycopg2.pool import SimpleConnectionPool

URL = sys.argv[1]
attempts = Attempts(lambda error: getattr(error, "pgcode", None))


def execute(connection: psycopg2.extensions.connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def connect() -> None:
    psycopg2.connect(URL, connect_timeout=2).close()


def play(scenario: str) -> Answer:
    if scenario == "connect":
        return {"raised": attempts.call(connect), "checkout": attempts.call(connect)}
    pool = SimpleConnectionPool(1, 1, URL, connect_timeout=2)
    connection = pool.getconn()
    answer = play_on(connection, scenario, attempts, lambda statement: execute(connection, statement))
    pool.putconn(connection)
    answer["checkout"] = attempts.call(lambda: execute(pool.getconn(), NEXT))
    pool.closeall()
    return answer


serve("psycopg2-binary", play)
