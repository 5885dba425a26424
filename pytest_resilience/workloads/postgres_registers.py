"""The workload of an asyncpg-like client in the process of the test."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..errors import SetupError
from ..history import Client
from .registers import NotSent, Registers, Rejected, wrong_client

KINDS = ("delete", "update", "read", "list")
PATTERN = ("update", "read", "update", "read", "update", "list", "read", "delete", "read", "update", "read", "list")
LOST = ("08", "57P")  # classes of SQLSTATE for a connection that has ended: what was sent on it may have happened
CLOSE_WITHIN = 2.0  # seconds

Connect = Callable[[str], Awaitable[Any]]
TAKES = (
    "PostgresRegisters(connect) takes a function such as asyncpg.connect, which returns an awaitable of a connection or pool"
    " of an asyncpg-like client"
)


class PostgresRegisters(Registers):
    """Clients that read and write the rows of one table, by a pool or connections of the test's process.

    A row is a register with a key, a value and a version that each write raises. A delete empties the register and keeps the row,
    so that versions never fall. Every second update runs in a transaction that locks its row first, and some require the last
    version that was seen.

    Args:
        connect: a function that takes the URL of Postgres and returns an awaitable of a pool or of a connection, such as
            `lambda url: asyncpg.create_pool(url, max_size=3)` or `asyncpg.connect`. Without a pool, each client connects on its own,
            and again after its connection was lost.
        table: the table. It is created unless it exists, with the columns key (text, primary key), value (text) and version (bigint).
        kinds: the kinds of operation: "delete", "update", "read", "list".
        keys: the number of rows that clients share.
        timeout: seconds for each operation.
        url: the URL; None for that of `resilience.postgres` behind its proxy.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        table: str = "resilience_registers",
        kinds: Sequence[str] = KINDS,
        keys: int = 3,
        timeout: float = 2.0,
        url: str | None = None,
    ) -> None:
        super().__init__(kinds, known=KINDS, full=PATTERN, keys=keys, timeout=timeout)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?", table):
            raise SetupError(f"PostgresRegisters(table=...) is a name such as 'registers', got {table!r}")
        self._connect = connect
        self._url = url
        self._pool: Any = None
        self._connections: dict[int, Any] = {}
        self._versions: dict[str, int] = {}
        self._sql = _Statements(table)

    async def begin(self, resilience: Any) -> None:
        """Connect, and create the table and its rows.

        Raises:
            SetupError: `connect` returns no connection and no pool of an asyncpg-like client.
        """
        self._versions.clear()
        self._connections.clear()
        self._url = self._url or resilience.postgres.url
        made = self._connect(self._url)
        if not inspect.isawaitable(made):
            raise wrong_client(TAKES, made)
        first = await made
        if not (hasattr(first, "acquire") or hasattr(first, "executemany")):
            raise wrong_client(TAKES, first)
        self._pool = first if hasattr(first, "acquire") else None
        connection = await first.acquire() if self._pool is not None else first
        try:
            await connection.execute(self._sql.create)
            await connection.executemany(self._sql.insert, [(key,) for key in self._all_keys])
        finally:
            await (self._pool.release(connection) if self._pool is not None else connection.close())

    async def end(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await _close(self._pool)
            self._pool = None
        for connection in self._connections.values():
            await _close(connection)
        self._connections.clear()

    def _expected(self, key: str) -> int | None:
        return self._versions.get(key)

    async def _execute(
        self, client: Client, kind: str, key: str | None, value: Any, expected: int | None
    ) -> Mapping[str, Any]:
        connection = await self._acquire(client)
        try:
            return await self._run(connection, kind, key, value, expected)
        except BaseException as error:
            if self._pool is None and not isinstance(error, Rejected) and not _sqlstate(error):
                connection.terminate()  # its state is unknown
            raise
        finally:
            if self._pool is not None:
                await self._release(connection)

    async def _acquire(self, client: Client) -> Any:
        try:
            if self._pool is not None:
                return await self._pool.acquire()
            connection = self._connections.get(client.number)
            if connection is None or connection.is_closed():
                assert self._url is not None
                connection = self._connections[client.number] = await self._connect(self._url)
            return connection
        except TimeoutError:
            raise
        except Exception as error:
            raise NotSent from error

    async def _release(self, connection: Any) -> None:
        """Return a connection to the pool. One that can't be returned in time is closed."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._pool.release(connection)
        except Exception:  # noqa: BLE001  # the outcome of the operation is known already
            connection.terminate()

    async def _run(
        self, connection: Any, kind: str, key: str | None, value: Any, expected: int | None
    ) -> Mapping[str, Any]:
        match kind:
            case "list":
                rows = await connection.fetch(self._sql.list)
                return {"value": {row["key"]: row["value"] for row in rows}}
            case "read":
                row = await connection.fetchrow(self._sql.read, key)
                self._versions[str(key)] = row["version"]
                return {"value": row["value"], "version": row["version"]}
            case "delete":
                return self._written(key, await connection.fetchrow(self._sql.write, key, None))
            case _ if expected is not None:
                return self._written(key, await connection.fetchrow(self._sql.write_version, key, value, expected))
            case _ if value.endswith(tuple("13579")):
                async with connection.transaction():
                    await connection.fetchrow(self._sql.lock, key)
                    row = await connection.fetchrow(self._sql.write, key, value)
                return self._written(key, row)
            case _:
                return self._written(key, await connection.fetchrow(self._sql.write, key, value))

    def _written(self, key: str | None, row: Any) -> Mapping[str, Any]:
        if row is None:
            raise Rejected("412")
        self._versions[str(key)] = row["version"]
        return {"version": row["version"]}

    def _has_not_happened(self, error: Exception) -> bool:
        """True for an error that the server has sent, or that the client has raised instead of sending."""
        state = _sqlstate(error)
        if state is not None:
            return not state.startswith(LOST)
        return any(each.__name__ == "InterfaceError" for each in type(error).__mro__)


class _Statements:
    """The statements on one table."""

    def __init__(self, table: str) -> None:
        # The name has been checked. Postgres takes no parameter in its place.
        self.create = f"create table if not exists {table} (key text primary key, value text, version bigint not null)"
        self.insert = f"insert into {table} values ($1, null, 0) on conflict do nothing"  # noqa: S608
        self.read = f"select value, version from {table} where key = $1"  # noqa: S608
        self.list = f"select key, value from {table} where value is not null"  # noqa: S608
        self.lock = f"select version from {table} where key = $1 for update"  # noqa: S608
        self.write = f"update {table} set value = $2, version = version + 1 where key = $1 returning version"  # noqa: S608
        self.write_version = self.write.replace("where", "where version = $3 and")


def _sqlstate(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None)


async def _close(resource: Any) -> None:
    """Close a pool or a connection in order, or at once if that takes too long."""
    try:
        async with asyncio.timeout(CLOSE_WITHIN):
            await resource.close()
    except Exception:  # noqa: BLE001  # a broken connection can't be closed in order
        resource.terminate()
