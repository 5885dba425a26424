"""The connections to Postgres, and the tables: python -m invoices.database creates them."""

from __future__ import annotations

import os

import psycopg

TABLES = """
create table if not exists invoices (number int primary key, customer text not null);
create table if not exists prints (number int primary key references invoices, worker int not null);
"""


def connect() -> psycopg.Connection[tuple[object, ...]]:
    """Return a new connection, in which no statement takes longer than five seconds."""
    return psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=2, options="-c statement_timeout=5s")


if __name__ == "__main__":
    with connect() as connection:
        connection.execute(TABLES)
