"""What faults hold in Postgres until they heal: locks, connections, and the count of whom they stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from ..backends.backend import Server
from ..clients.postgres import LOCK_NOT_AVAILABLE, PostgresError, Session
from ..clock import SYSTEM
from ..errors import CannotInject, SetupError
from ..wording import counted

LOOK_EVERY = 0.01  # seconds between two looks at who waits for a lock that we hold
REFUSALS = (
    "sorry, too many clients already",
    "remaining connection slots are reserved",
)  # what the server logs with SQLSTATE 53300


ALL_TABLES = """
select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema' order by 1
"""
QUEUES = "select exists (select from pg_locks where pid = $1 and not granted)"


class Admin(Protocol):
    """The superuser's door, as far as grips need it."""

    server: Server

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any: ...

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]: ...

    async def connect(self, database: str | None = None) -> Session: ...

    async def session(self) -> Session: ...

    def released(self, grip: Any) -> None: ...


class TableLock:
    """An exclusive lock on tables, and a watch on who waits for it."""

    def __init__(self, admin: Admin, tables: Sequence[str], fault: str) -> None:
        self._admin = admin
        self._tables = list(tables)
        self._fault = fault
        self._connection: Session | None = None
        self._watch: Future[None] | None = None
        self._waiting: set[tuple[int, object]] = set()  # process, and since when its statement runs
        self._taken_at = 0.0
        self._first: float | None = None
        self._last: float | None = None

    async def take(self) -> None:
        """Take the lock."""
        self._connection = connection = await self._admin.connect()
        try:
            self._tables = await self._known(connection)
            await self._lock(connection)
        except PostgresError as error:
            if error.code != LOCK_NOT_AVAILABLE:
                raise
            raise SetupError(f"{self._fault}: others held {', '.join(self._tables)} for longer than 5 s") from None
        self._taken_at = SYSTEM.now()

    async def _known(self, connection: Session) -> list[str]:
        """The tables as the server spells them."""
        every = [row[0] for row in await connection.fetch(ALL_TABLES)]
        wanted = [await connection.fetchval("select to_regclass($1)::text", table) for table in self._tables] or every
        missing = [table for table, name in zip(self._tables, wanted, strict=False) if name is None]
        if missing or not wanted:
            names = ", ".join(every) or "none"
            which = f"no such table: {', '.join(missing)}" if missing else "nothing to lock"
            raise SetupError(f"{self._fault}: {which}; this database has: {names}")
        return wanted

    async def _lock(self, connection: Session) -> None:
        await connection.execute("begin")
        await connection.execute("set local lock_timeout = '5s'")
        await connection.execute(f"lock table {', '.join(self._tables)} in access exclusive mode")

    def watch(self) -> None:
        """Begin to note who waits."""
        self._watch = self._admin.spawn(self._look_on)

    async def _look_on(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        assert self._connection is not None, "the watch ends before the connection that holds the lock"
        # We are in a transaction, which sees pg_stat_activity as it was first: nobody who has connected since, no later statement.
        await self._connection.execute("select pg_stat_clear_snapshot()")
        rows = await self._connection.fetch(
            """select l.pid, a.query_start from pg_locks l join pg_stat_activity a on a.pid = l.pid
               where not l.granted and a.application_name <> current_setting('application_name')
                 and l.relation = any ($1::text[]::regclass[]::oid[])""",
            self._tables,
        )
        if rows:
            now = SYSTEM.now() - self._taken_at
            self._first = now if self._first is None else self._first
            self._last = now
            self._waiting.update((row[0], row[1]) for row in rows)

    def touched(self) -> tuple[int, float | None, float | None]:
        """How many sessions waited for the tables so far, and when."""
        return len({pid for pid, _ in self._waiting}), self._first, self._last

    def release(self) -> None:
        """Give the lock back."""
        self._admin.released(self)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        connection, self._connection = self._connection, None
        if connection is not None:
            self._admin.run(lambda: end(connection))


class RotatingLock(TableLock):
    """A lock that is held for some seconds and then by somebody else of ours, so that who asks waits for up to so long, and gets through.

    The next one asks for the lock before the present one lets go: those who wait by then are let through first, and there is no gap.

    Args:
        seconds: for which the lock is held each time.
    """

    def __init__(self, admin: Admin, tables: Sequence[str], fault: str, seconds: float) -> None:
        super().__init__(admin, tables, fault)
        self._seconds = seconds
        self._other: Session | None = None

    async def take(self) -> None:
        await super().take()
        self._other = await self._admin.connect()

    async def _look_on(self) -> None:
        while True:
            until = SYSTEM.now() + self._seconds
            while (left := until - SYSTEM.now()) > 0:
                await self._look()
                await asyncio.sleep(min(LOOK_EVERY, left))
            await self._hand_over()

    async def _hand_over(self) -> None:
        holder, other = self._connection, self._other
        assert holder is not None, "the watch ends before the connections that hold the lock"
        assert other is not None, "the same"
        asking = asyncio.ensure_future(self._lock(other))
        try:
            queues = False
            while not queues and not asking.done():
                queues = await holder.fetchval(QUEUES, other.get_server_pid())
            await self._look()
            await holder.execute("rollback")
            while True:
                try:
                    await asking
                    break
                except PostgresError as error:
                    if error.code != LOCK_NOT_AVAILABLE:
                        raise
                    # Somebody works on it for long: slow enough without us.
                    await other.execute("rollback")
                    asking = asyncio.ensure_future(self._lock(other))
        finally:
            asking.cancel()
        self._connection, self._other = other, holder

    def touched(self) -> tuple[int, float | None, float | None]:
        """How many statements waited so far, and when."""
        return len(self._waiting), self._first, self._last

    def release(self) -> None:
        other, self._other = self._other, None
        super().release()
        if other is not None:
            self._admin.run(lambda: end(other))


class HeldConnections:
    """Connections held so that few are left, and a watch on who was turned away."""

    def __init__(self, admin: Admin, left: int) -> None:
        self._admin = admin
        self._left = left
        self._held: list[Session] = []
        self._log_begin = 0

    async def take(self) -> None:
        """Take connections until only so many are left."""
        if not self._admin.server.exclusive:
            raise CannotInject(
                "external cannot postgres.starve(connections=...): it would starve everybody who uses that server"
            )
        session = await self._admin.session()
        free = await session.fetchval(
            """select current_setting('max_connections')::int
                 - (select count(*) from pg_stat_activity where backend_type = 'client backend')"""
        )
        wanted = free - self._left
        if wanted < 0:
            raise SetupError(
                f"starve(connections={self._left}): {counted(free, 'connections')} free, and the experiment needs more of them"
            )
        # In groups: a server that forks for a hundred clients at once keeps both cores busy for long.
        while len(self._held) < wanted:
            group = [self._admin.connect() for _ in range(min(20, wanted - len(self._held)))]
            self._held += await asyncio.gather(*group)
        if self._admin.server.log_readable:
            self._log_begin = self._admin.server.log_size()

    def watch(self) -> None:
        """The server's log tells whom it turned away."""

    def touched(self) -> tuple[int | None, float | None, float | None]:
        """How many connections the server turned away since, by its log; not known where that can't be read."""
        if not self._admin.server.log_readable:
            return None, None, None
        log = self._admin.server.log_text(self._log_begin)
        return sum(log.count(refusal) for refusal in REFUSALS), None, None

    def release(self) -> None:
        """Close them."""
        self._admin.released(self)
        held, self._held = self._held, []

        async def work() -> None:
            await asyncio.gather(*(end(connection) for connection in held))

        if held:
            self._admin.run(work)


async def end(connection: Session) -> None:
    """Close in good order, at once when the server does not answer."""
    try:
        await connection.close(within=2.0)
    except Exception:  # noqa: BLE001  # the server may be gone in any way
        connection.terminate()
