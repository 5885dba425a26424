"""The job: it runs at least once, and writes an export once."""

from __future__ import annotations

import os

import psycopg

TABLE = "create table if not exists exports (number int primary key)"


def connect() -> psycopg.Connection[tuple[object, ...]]:
    """Return a new connection, in which no statement takes longer than five seconds."""
    return psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=2, options="-c statement_timeout=5s")


def create_table() -> None:
    """Create the table, in place of a migration."""
    with connect() as connection:
        connection.execute(TABLE)


def write(number: int) -> None:
    """Write an export, unless it has been written."""
    with connect() as connection:
        connection.execute("insert into exports values (%s) on conflict do nothing", (number,))


if __name__ == "__main__":
    create_table()
