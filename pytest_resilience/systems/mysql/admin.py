"""The administration of a MySQL, around the proxy. Each operation opens a connection of root, and closes it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...admin.schema_init import Init, make_schema
from ...backends.backend import SystemServer
from ...clock import wait_until
from ...errors import SetupError
from ...faults.fault import Hold, Receipt
from ...faults.postgres_server import TooFewConnections
from ...wording import counted
from ..system import SystemAdmin
from .baseline import OTHERS, Baseline, kill_sessions
from .client import Connection
from .program import DATABASE, MysqlProgram
from .protocol import ServerError
from .schema import quoted

NOT_OF_A_KIND = "Com_stmt_"  # EXECUTE of the protocol, which is counted with the statement inside of it
ERRORS = """
select coalesce(sum(sum_error_raised), 0) from performance_schema.events_errors_summary_global_by_error where error_number = 1290
"""
SETTLED_WITHIN = 0.5  # seconds until the server has counted the end of a connection


class MysqlAdmin(SystemAdmin):
    """The administrator of one MySQL.

    Args:
        server: the server.
        program: its program, which has the passwords.
    """

    program: MysqlProgram

    def __init__(self, server: SystemServer, program: MysqlProgram) -> None:
        self._server = server
        self.program = program
        self._baseline: Baseline | None = None
        self._read_only_by: list[object] = []
        self._holds: list[HeldConnections] = []
        with self._connect() as root:
            program.create_user(root)
            root.query(f"create database {quoted(DATABASE)}")

    def _connect(self) -> Connection:
        return self.program.connect_as_root(self._server.direct_address)

    def prepare(self, init: Init) -> None:
        """Create the schema, before the baseline is taken.

        Args:
            init: SQL, a file with SQL, or a function that gets the server's URL; one or several.

        Raises:
            SetupError: the SQL failed.
        """
        make_schema(init, self._server.url(self._server.direct_address), self._run_script, ServerError)

    def _run_script(self, sql: str) -> None:
        with self.program.connect(self._server.direct_address) as connection:
            connection.query(f"use {quoted(DATABASE)}")
            connection.query(sql)

    def take_baseline(self) -> None:
        """Take the state in which each test begins."""
        with self._connect() as root:
            self._baseline = Baseline(root)

    def clean(self, *, settings: bool = True) -> None:
        """Bring the server into the state in which each test begins.

        Args:
            settings: False while a fault of the session has changed its settings.
        """
        assert self._baseline is not None, "take_baseline comes first"
        with self._connect() as root:
            self._baseline.restore(root, settings=settings)

    # The faults

    def close_connections(self) -> int:
        """End the sessions of all clients. Return their number."""
        with self._connect() as root:
            return kill_sessions(root, OTHERS)

    def forbid_writes(self) -> Callable[[], None]:
        """Refuse the writes of all users but root. Return the function that undoes it."""
        ban = object()
        with self._connect() as root:
            root.query("set global read_only = 1")
        self._read_only_by.append(ban)

        def allow() -> None:
            with self._connect() as root:
                if self._read_only_by == [ban]:
                    root.query("set global read_only = 0")
            self._read_only_by.remove(ban)

        return allow

    def count_refused_writes(self) -> Callable[[], Receipt]:
        """Return a function that returns the number of refused writes from now on."""
        before = self._refused_writes()
        return lambda: Receipt(max(0, self._refused_writes() - before), "commands")

    def _refused_writes(self) -> int:
        """Return a number that grows by one with each statement that the server refuses."""
        with self._connect() as root:
            if not _is_mariadb(root):
                return int(root.value(ERRORS))
            readings = [_without_kind(_status(root))]

            def is_settled() -> bool:
                readings.append(_without_kind(_status(root)))
                return readings[-1] == readings[-2]

            wait_until(is_settled, within=SETTLED_WITHIN, every=0.005)
            return readings[-1]

    def take_connections(self, left: int) -> Hold:
        """Open connections until `left` are left.

        Raises:
            TooFewConnections: fewer are free.
        """
        with self._connect() as root:
            limit, used = int(root.value("select @@max_connections")), int(_status(root)["Threads_connected"]) - 1
            number = limit - used - left
            if number < 0:
                free = counted(limit - used, "free connections")
                raise TooFewConnections(f"it would leave {left}, but the server has only {free}")
        hold = HeldConnections(self._holds, self._connect)
        hold.acquire(lambda: self.program.connect(self._server.direct_address), number, total=limit - left)
        return hold

    def hold_locks(self, tables: Sequence[str], fault: str) -> Hold:
        """Raise an error, because locks of tables are for Postgres."""
        raise SetupError(f"{fault}: only a Postgres has lock=...; MySQL has starve(connections=N)")


class ConnectionCounts(NamedTuple):
    """The connections of a server.

    Args:
        present: how many there are.
        refused: how many it has refused since its start.
    """

    present: int
    refused: int


class HeldConnections:
    """Connections that are held so that few are left.

    The questions about their effect go through one of them, because a connection that has just ended takes a place for a moment.

    Args:
        holds: all holds on the server, in order.
        connect_as_root: opens a connection of root.
    """

    def __init__(self, holds: list[HeldConnections], connect_as_root: Callable[[], Connection]) -> None:
        self._holds = holds
        self._connect_as_root = connect_as_root
        self._connections: list[Connection] = []
        self._lock = threading.Lock()
        self._before = 0

    def acquire(self, connect: Callable[[], Connection], number: int, *, total: int) -> None:
        """Open connections. Close them again if that fails.

        Args:
            connect: opens a connection.
            number: the number of connections to open.
            total: the number that the server has then.
        """
        try:
            for _ in range(number):
                self._connections.append(_connect_soon(connect))
            wait_until(lambda: self._read().present <= total, within=SETTLED_WITHIN, every=0.005)
            self._before = self._read().refused
        except BaseException:
            self.release()
            raise
        self._holds.append(self)

    def _read(self) -> ConnectionCounts:
        """Read the counts, also after a restart of the server that has ended the connections."""
        with self._lock:
            with contextlib.suppress(OSError, ServerError, IndexError):
                return _connection_counts(self._connections[0])
            with self._connect_as_root() as root:
                return _connection_counts(root)

    def receipt(self) -> Receipt:
        """Return the number of connections that the server has refused."""
        return Receipt(max(0, self._read().refused - self._before), "connections")

    def release(self) -> None:
        """Close the connections, or hand them over to a later strike, which would have taken them too."""
        later = self._holds[self._holds.index(self) + 1 :] if self in self._holds else []
        if self in self._holds:
            self._holds.remove(self)
        connections, self._connections = self._connections, []
        if later:
            later[0]._connections += connections  # of this class
            return
        for connection in connections:
            connection.close()


def _connect_soon(connect: Callable[[], Connection]) -> Connection:
    """Return a new connection, also if one that is ending still takes its place."""
    failures: list[ServerError] = []

    def attempt() -> Connection | None:
        try:
            return connect()
        except ServerError as failure:
            failures.append(failure)
            return None

    connection = wait_until(attempt, within=SETTLED_WITHIN, every=0.005)
    if connection is None:
        raise failures[-1]
    return connection


def _connection_counts(connection: Connection) -> ConnectionCounts:
    """Return the counts of a server. MariaDB counts refused connections with others that have failed."""
    status = _status(connection)
    refused = "Aborted_connects" if _is_mariadb(connection) else "Connection_errors_max_connections"
    return ConnectionCounts(int(status["Threads_connected"]), int(status[refused]))


def _is_mariadb(connection: Connection) -> bool:
    return "MariaDB" in connection.version


def _status(connection: Connection) -> dict[str, str]:
    return {name or "": value or "" for name, value in connection.query("show global status")}


def _without_kind(status: dict[str, str]) -> int:
    """Return the number of statements that a MariaDB has not counted as statements of their kind, which are those it has refused.

    The end of a connection is such a statement too, unless the client has just closed it.
    """
    of_a_kind = sum(
        int(value)
        for name, value in status.items()
        if name.startswith("Com_") and NOT_OF_A_KIND not in name and value.isdigit()
    )
    names = ("Connections", "Threads_connected", "Aborted_clients", "Aborted_connects")
    begun, present, *aborted = (int(status[name]) for name in names)
    return int(status["Questions"]) - of_a_kind - (begun - present - sum(aborted))
