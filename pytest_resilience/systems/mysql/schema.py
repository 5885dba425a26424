"""The objects of the databases of a MySQL, with the statements that create them."""

from __future__ import annotations

import re
from typing import NamedTuple

from .client import Connection

SYSTEM_DATABASES = ("mysql", "information_schema", "performance_schema", "sys")
STORED_COLUMNS = """
select column_name from information_schema.columns
where table_schema = {} and table_name = {} and coalesce(generation_expression, '') = '' order by ordinal_position
"""
AUTO_INCREMENT = re.compile(r" AUTO_INCREMENT=(\d+)")
# In the order in which they can be created: a list of names in {}, and the column of the statement in the answer to SHOW CREATE.
KINDS = {
    "table": ("table_name from information_schema.tables where table_type = 'BASE TABLE' and table_schema = {}", 1),
    "function": (
        "routine_name from information_schema.routines where routine_type = 'FUNCTION' and routine_schema = {}",
        2,
    ),
    "procedure": (
        "routine_name from information_schema.routines where routine_type = 'PROCEDURE' and routine_schema = {}",
        2,
    ),
    "view": ("table_name from information_schema.views where table_schema = {}", 1),
    "trigger": ("trigger_name from information_schema.triggers where trigger_schema = {}", 2),
    "event": ("event_name from information_schema.events where event_schema = {}", 3),
}


class Definition(NamedTuple):
    """An object of a database.

    Args:
        kind: such as "table".
        name: its name.
        statement: the statement that creates it.
    """

    kind: str
    name: str
    statement: str


def quoted(*names: str) -> str:
    """Return a name, such as that of a database and a table, for a statement."""
    return ".".join(f"`{name.replace('`', '``')}`" for name in names)


def text(value: str) -> str:
    """Return a value as the literal of a statement."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def databases(connection: Connection) -> dict[str, str]:
    """Return the databases but those of the system, each with the statement that creates it."""
    names = [name for name in connection.column("show databases") if name not in SYSTEM_DATABASES]
    return {name: connection.query(f"show create database {quoted(name)}")[0][1] or "" for name in names}


def definitions(connection: Connection, database: str) -> list[Definition]:
    """Return all objects of a database, in the order in which they can be created."""
    return [
        Definition(kind, name, AUTO_INCREMENT.sub("", _show_create(connection, kind, database, name)))
        for kind, (names, _) in KINDS.items()
        for name in connection.column(f"select {names.format(text(database))} order by 1")
    ]


def _show_create(connection: Connection, kind: str, database: str, name: str) -> str:
    row = connection.query(f"show create {kind} {quoted(database, name)}")[0]
    return row[KINDS[kind][1]] or ""


def next_id(connection: Connection, database: str, table: str) -> str:
    """Return the next AUTO_INCREMENT of a table, "" for 1 or none."""
    found = AUTO_INCREMENT.search(_show_create(connection, "table", database, table))
    return found[1] if found else ""


def checksum(connection: Connection, database: str, table: str) -> str:
    """Return the checksum of all rows of a table."""
    return connection.query(f"checksum table {quoted(database, table)}")[0][1] or ""


def stored_columns(connection: Connection, database: str, table: str) -> str:
    """Return the columns of a table that are not computed, for a statement."""
    return ", ".join(map(quoted, connection.column(STORED_COLUMNS.format(text(database), text(table)))))


def users(connection: Connection) -> set[str]:
    """Return all users, as a statement names them."""
    return {
        f"{text(user or '')}@{text(host or '')}" for user, host in connection.query("select user, host from mysql.user")
    }


def variables(connection: Connection) -> dict[str, str]:
    """Return the global variables."""
    return {name or "": value or "" for name, value in connection.query("show global variables")}
