"""Play scenarios by psycopg 3 and psycopg_pool: python psycopg_client.py URL."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import psycopg
from answers import NEXT, TIMEOUT, Answer, Attempts, play_on, serve
from psycopg_pool import ConnectionPool

URL = sys.argv[1]
attempts = Attempts(lambda error: getattr(error, "sqlstate", None))
logging.disable()


def on(connection: psycopg.Connection[Any], scenario: str) -> Answer:
    answer = play_on(connection, scenario, attempts, connection.execute)
    with contextlib.suppress(Exception):
        connection.autocommit = False
    return answer


def connect() -> None:
    psycopg.connect(URL, connect_timeout=2).close()


def checkout(pool: ConnectionPool[Any]) -> None:
    connection = pool.getconn()
    connection.execute(NEXT)
    connection.rollback()
    pool.putconn(connection)


def play(scenario: str) -> Answer:
    if scenario == "connect":
        return {"raised": attempts.call(connect), "checkout": attempts.call(connect)}
    pool = ConnectionPool(URL, min_size=1, max_size=1, timeout=TIMEOUT, open=True, kwargs={"connect_timeout": 2})
    connection = pool.getconn()
    answer = on(connection, scenario)
    with contextlib.suppress(Exception):
        pool.putconn(connection)
    answer["checkout"] = attempts.call(checkout, pool)
    pool.close(timeout=0)
    return answer


serve("psycopg", play)
