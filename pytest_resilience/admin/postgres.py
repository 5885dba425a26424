"""The administration of one Postgres, with its schema, its baseline, and the operations that faults need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from ..backends.backend import Server
from ..clients.postgres import PostgresError, Session
from ..clock import SYSTEM, wait_until_async
from ..errors import SetupError
from ..faults.fault import Receipt
from .postgres_baseline import PostgresBaseline
from .postgres_holds import HeldConnections, RotatingLock, TableLock
from .postgres_session import APPLICATION, STATEMENT_TIMEOUT, AdminSession
from .schema_init import Init, make_schema

AnyHold = TypeVar("AnyHold", TableLock, RotatingLock, HeldConnections)

LOADED_READ_ONLY = "select reset_val from pg_settings where name = 'default_transaction_read_only'"
OTHER_SESSIONS = f"backend_type = 'client backend' and application_name <> '{APPLICATION}'"


class PostgresAdmin(AdminSession):
    """A superuser's session in one database, with the baseline of the database and the locks and connections that faults hold.

    Args:
        server: the server. Its URL names the database.
        template: name for the copy of the baseline from which a changed schema is restored.

    Attributes:
        holds: the locks and connections that strikes hold, in order.
    """

    def __init__(self, server: Server, *, template: str = "resilience_baseline") -> None:
        super().__init__(server)
        self._baseline = PostgresBaseline(self, template)
        self.holds: list[TableLock | RotatingLock | HeldConnections] = []
        self._write_bans: list[object] = []

    def close(self) -> None:
        """Release all holds, close the session and end the background loop."""
        for hold in list(self.holds):
            hold.release()
        super().close()

    # -- schema and baseline

    def prepare(self, init: Init) -> None:
        """Create the schema, before the baseline is taken.

        Args:
            init: SQL, a file with SQL, or a function that gets the server's URL; one or several.

        Raises:
            SetupError: the SQL failed.
        """
        make_schema(init, self.server.url(self.server.direct_address), self._run_script, PostgresError)

    def _run_script(self, sql: str) -> None:
        async def work() -> None:
            await (await self.session()).execute(sql)

        self.run(work)

    def take_baseline(self) -> None:
        """Take the present state of the database as its baseline. No client may be connected to it."""
        self.run(self._baseline.take)

    def clean(self, *, settings: bool = True) -> Future[None]:
        """Start to restore the baseline, as `PostgresBaseline.restore` describes."""
        if settings:
            self._write_bans = []
        return self.spawn(lambda: self._baseline.restore(settings=settings))

    # -- what faults need

    def hold_locks(self, tables: Sequence[str], fault: str) -> TableLock:
        """Hold an ACCESS EXCLUSIVE lock on tables until it is released.

        Args:
            tables: their names; empty for all tables.
            fault: the fault's label, for messages.

        Raises:
            SetupError: there is no such table, or another session holds a lock on it for longer than 5 s.
        """
        return self._acquire(TableLock(self, tables, fault))

    def slow_down(self, tables: Sequence[str], seconds: float, fault: str) -> RotatingLock:
        """Make statements on tables wait for up to `seconds`, again and again. See `hold_locks`.

        Raises:
            SetupError: there is no such table.
        """
        return self._acquire(RotatingLock(self, tables, fault, seconds))

    def take_connections(self, left: int) -> HeldConnections:
        """Open connections until `left` are left for superusers. Other users find fewer, because the server reserves a few.

        Raises:
            SetupError: fewer than `left` are free already.
        """
        return self._acquire(HeldConnections(self, left))

    def _acquire(self, hold: AnyHold) -> AnyHold:
        self.holds.append(hold)
        try:
            self.run(hold.acquire)
            hold.start_monitoring()
        except BaseException:
            hold.release()
            raise
        return hold

    def on_released(self, hold: TableLock | RotatingLock | HeldConnections) -> None:
        """Remove a hold from those that `close` releases."""
        if hold in self.holds:
            self.holds.remove(hold)

    def count_sessions(self) -> int:
        """Return the number of sessions that don't belong to this package."""
        query = f"select count(*) from pg_stat_activity where {OTHER_SESSIONS}"  # noqa: S608  # built from constants
        return int(self.fetch(query)[0][0])

    def terminate_backends(self) -> int:
        """Terminate all sessions that don't belong to this package. Return their number."""
        self._look_at_locks()
        query = f"select pg_terminate_backend(pid) from pg_stat_activity where {OTHER_SESSIONS}"  # noqa: S608  # built from constants
        return len(self.fetch(query))

    def _look_at_locks(self) -> None:
        """Record the sessions that wait for locks of strikes, before they end."""
        for hold in self.holds:
            if isinstance(hold, TableLock):
                hold.look()

    def count_refused_writes(self) -> Callable[[], Receipt]:
        """Return a function that returns an unknown receipt, because Postgres does not count refused writes."""
        return lambda: Receipt(None, "commands")

    def forbid_writes(self) -> Callable[[], None]:
        """Make transactions read-only by default, in existing sessions too. Return the function that undoes it."""
        ban = object()

        def allow() -> None:
            if self._write_bans == [ban]:  # otherwise another strike goes on
                self._alter_system("reset default_transaction_read_only", "off")
            self._write_bans = [each for each in self._write_bans if each is not ban]

        self._write_bans.append(ban)
        try:
            if len(self._write_bans) == 1:
                self._alter_system("set default_transaction_read_only = on", "on")
        except BaseException:
            with contextlib.suppress(Exception):  # the first error matters more
                allow()
            self._write_bans = [each for each in self._write_bans if each is not ban]
            raise
        return allow

    def _alter_system(self, change: str, expected: str) -> None:
        async def alter(session: Session) -> None:
            await session.execute(f"alter system {change}")
            await session.execute("select pg_reload_conf()")

        async def is_loaded() -> bool:
            # The server loads the file before its sessions do. A probe in a new session would need a free connection.
            session = await self.session()
            return bool(await session.fetchval(LOADED_READ_ONLY) == expected)

        async def work() -> None:
            await self.on_session(alter)
            if not await wait_until_async(is_loaded, within=STATEMENT_TIMEOUT, every=0.005):
                raise SetupError(f"the server has not loaded {change!r} within {STATEMENT_TIMEOUT:g} s")

        self.run(work)

    def crash_backend(self) -> None:
        """Kill the process of one session. Return when the server has recovered."""
        self._look_at_locks()

        async def work() -> None:
            victim, witness = await self.connect(), await self.connect()
            pid = victim.get_server_pid()
            self.server.kill_session(pid)
            victim.terminate()
            await asyncio.wait_for(witness.wait_closed(), STATEMENT_TIMEOUT)
            await self.close_session()
            deadline = SYSTEM.now() + STATEMENT_TIMEOUT
            while True:
                try:
                    await self.session()
                    return
                except (OSError, PostgresError):  # 57P03: the server recovers
                    if SYSTEM.now() > deadline:
                        raise
                    await asyncio.sleep(0.005)

        self.run(work)
