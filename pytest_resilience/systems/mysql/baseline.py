"""The state of a MySQL in which each test begins: databases with their rows, users and global variables."""

from __future__ import annotations

import contextlib
import re
from typing import NamedTuple

from .client import Connection
from .protocol import ServerError
from .schema import checksum, databases, definitions, next_id, quoted, stored_columns, users, variables
from .schema import text as literal

COPY = "resilience_baseline"  # a database with the rows of the baseline
LOCK_TIMEOUT = 1205
# Sessions that tests have left in a transaction. The statements of the baseline would wait for their locks.
IN_TRANSACTION = (
    "select trx_mysql_thread_id from information_schema.innodb_trx where trx_mysql_thread_id <> connection_id()"
)
OTHERS = "select id from information_schema.processlist where id <> connection_id() and user not in ('system user', 'event_scheduler')"
# Rows have the values that they had, also 0 for an AUTO_INCREMENT and dates that the mode of the server refuses.
SESSION = (
    "set session foreign_key_checks = 0, session lock_wait_timeout = 2, session sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"
)


class TableRows(NamedTuple):
    """The rows of a table.

    Args:
        copy: the table that has a copy of them; "" for no rows.
        checksum: of all rows.
        next_id: the next AUTO_INCREMENT; "" for 1 or none.
    """

    copy: str
    checksum: str
    next_id: str


class Baseline:
    """The state of a server at one moment, which `restore` brings back.

    Args:
        connection: of root.
    """

    def __init__(self, connection: Connection) -> None:
        connection.query(SESSION)
        connection.query(f"drop database if exists {COPY}; create database {COPY}")
        self._databases = {name: statement for name, statement in databases(connection).items() if name != COPY}
        self._definitions = {name: definitions(connection, name) for name in self._databases}
        self._rows = {(database, name): self._copy(connection, database, name) for database, name in self._tables()}
        self._users = users(connection)
        self._variables = variables(connection)

    def _tables(self) -> list[tuple[str, str]]:
        found = self._definitions.items()
        return [(database, each.name) for database, objects in found for each in objects if each.kind == "table"]

    @staticmethod
    def _copy(connection: Connection, database: str, name: str) -> TableRows:
        copy = ""
        source = quoted(database, name)
        if connection.query(f"select 1 from {source} limit 1"):  # noqa: S608  # names are quoted
            copy = quoted(COPY, f"t{len(connection.query(f'show tables from {COPY}'))}")
            columns = stored_columns(connection, database, name)
            connection.query(f"create table {copy} as select {columns} from {source}")  # noqa: S608
        return TableRows(copy, checksum(connection, database, name), next_id(connection, database, name))

    def restore(self, connection: Connection, *, settings: bool = True) -> None:
        """Bring the state back.

        Args:
            connection: of root.
            settings: False to leave the global variables, which a fault of the session has changed.
        """
        if settings:
            self._restore_variables(connection)
        kill_sessions(connection, IN_TRANSACTION)
        connection.query(SESSION)
        try:
            self._restore_databases(connection)
        except ServerError as error:
            if error.code != LOCK_TIMEOUT:
                raise
            kill_sessions(connection, OTHERS)  # one of them has locked a table
            self._restore_databases(connection)
        for user in users(connection) - self._users:
            connection.query(f"drop user {user}")

    def _restore_variables(self, connection: Connection) -> None:
        for name, value in variables(connection).items():
            before = self._variables.get(name, value)
            if value != before:
                shown = before if re.fullmatch(r"-?\d+(\.\d+)?", before) else literal(before)
                with contextlib.suppress(ServerError):  # the server changes some that no statement can change
                    connection.query(f"set global {name} = {shown}")

    def _restore_databases(self, connection: Connection) -> None:
        present = databases(connection)
        for name in present.keys() - self._databases.keys() - {COPY}:
            connection.query(f"drop database {quoted(name)}")
        for name, statement in self._databases.items():
            if present.get(name) == statement and definitions(connection, name) == self._definitions[name]:
                self._restore_rows(connection, name)
            else:
                self._create_again(connection, name)

    def _restore_rows(self, connection: Connection, database: str) -> None:
        """Restore the rows of the tables that have changed."""
        changed = [
            name for owner, name in self._rows if owner == database and self._has_changed(connection, owner, name)
        ]
        if changed and any(each.kind == "trigger" for each in self._definitions[database]):
            self._create_again(connection, database)  # triggers would act on the rows
            return
        for name in changed:
            connection.query(f"truncate table {quoted(database, name)}")
            self._fill(connection, database, name)

    def _has_changed(self, connection: Connection, database: str, name: str) -> bool:
        rows = self._rows[database, name]
        now = checksum(connection, database, name), next_id(connection, database, name)
        return now != (rows.checksum, rows.next_id)

    def _create_again(self, connection: Connection, database: str) -> None:
        connection.query(f"drop database if exists {quoted(database)}")
        connection.query(self._databases[database])
        connection.query(f"use {quoted(database)}")
        for each in self._definitions[database]:
            connection.query(each.statement)
            if each.kind == "table":
                self._fill(connection, database, each.name)

    def _fill(self, connection: Connection, database: str, name: str) -> None:
        """Insert the rows of an empty table."""
        rows, table = self._rows[database, name], quoted(database, name)
        if rows.copy:
            columns = stored_columns(connection, database, name)
            connection.query(f"insert into {table} ({columns}) select {columns} from {rows.copy}")  # noqa: S608
        if rows.next_id:
            connection.query(f"alter table {table} auto_increment = {rows.next_id}")


def kill_sessions(connection: Connection, ids: str) -> int:
    """End sessions of the server.

    Args:
        connection: of root.
        ids: the query for their ids.

    Returns:
        The number of sessions that have been ended.
    """
    killed = 0
    for session in connection.column(ids):
        with contextlib.suppress(ServerError):  # it has ended meanwhile
            connection.query(f"kill {session}")
            killed += 1
    return killed
