"""Locks and connections that faults hold in Postgres until they heal, with the count of the sessions that they stopped."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

from ..backends.backend import Server
from ..clients.postgres import LOCK_NOT_AVAILABLE, PostgresError, Session
from ..clock import SYSTEM
from ..errors import CannotInject, SetupError
from ..faults.fault import Receipt
from ..faults.postgres_server import TablesLocked, TooFewConnections
from ..wording import counted
from .postgres_session import close_all_quietly

POLL_INTERVAL = 0.01  # seconds between two queries for sessions that wait for a lock
LOOK_TIMEOUT = 0.25  # seconds, at most, for which a receipt waits for one more of these queries
CONNECT_AT_ONCE = 20  # a server that forks for a hundred clients at once keeps both processors busy for long
REFUSALS = (
    "sorry, too many clients already",
    "remaining connection slots are reserved",
)  # log messages with SQLSTATE 53300

# Log messages of a statement that waited for a lock for less than POLL_INTERVAL, or not at all, and perhaps of others.
GAVE_UP = re.compile("could not obtain lock on|canceling statement due to|terminating connection due to")

ALL_TABLES = """
select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema' order by 1
"""
IS_WAITING = "select exists (select from pg_locks where pid = $1 and not granted)"


class HoldOwner(Protocol):
    """The administration of a Postgres, as far as holds need it."""

    server: Server
    holds: list[Any]

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any: ...

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]: ...

    async def connect(self, database: str | None = None) -> Session: ...

    async def session(self) -> Session: ...

    def on_released(self, hold: Any) -> None: ...


class TableLock:
    """An exclusive lock on tables, with a monitor of the sessions that wait for it."""

    _unit: ClassVar[str] = "connections"

    def __init__(self, admin: HoldOwner, tables: Sequence[str], fault: str) -> None:
        self._admin = admin
        self._tables = list(tables)
        self._fault = fault
        self._session: Session | None = None
        self._monitor_task: Future[None] | None = None
        self._wanted = asyncio.Event()  # a receipt waits for the next query
        self._looked = asyncio.Event()  # set when the query has ended that begins next
        self._begun_looks = self._ended_looks = 0  # numbers of the last query that has begun, and that has ended
        self._waiters: set[tuple[int, object]] = set()  # process id, and the start of its statement
        self._acquired_at = 0.0
        self._log_begin = 0
        self._first: float | None = None
        self._last: float | None = None

    async def acquire(self) -> None:
        """Acquire the lock."""
        self._session = session = await self._admin.connect()
        self._tables = await self._resolve_tables(session)
        locked = {table for hold in self._admin.holds if hold is not self for table in hold.locked_tables}
        if common := [table for table in self._tables if table in locked]:
            raise TablesLocked(f"{', '.join(common)} {'is' if len(common) == 1 else 'are'} locked already")
        try:
            await self._lock(session)
        except PostgresError as error:
            if error.code != LOCK_NOT_AVAILABLE:
                raise
            raise TablesLocked(f"another session held {', '.join(self._tables)} for longer than 5 s") from None
        if self._admin.server.log_readable:
            self._log_begin = self._admin.server.log_size()
        self._acquired_at = SYSTEM.now()

    @property
    def locked_tables(self) -> list[str]:
        """The tables that are locked until the release, or until the server has ended the session."""
        return self._tables if self._acquired_at and self._session is not None and not self._session.is_closed() else []

    async def _resolve_tables(self, session: Session) -> list[str]:
        """Return the names of the tables as the server spells them."""
        every = [row[0] for row in await session.fetch(ALL_TABLES)]
        names = [await session.fetchval("select to_regclass($1)::text", table) for table in self._tables] or every
        missing = [table for table, name in zip(self._tables, names, strict=False) if name is None]
        if missing or not names:
            known = ", ".join(every) or "none"
            problem = f"no such table: {', '.join(missing)}" if missing else "nothing to lock"
            raise SetupError(f"{self._fault}: {problem}; this database has: {known}")
        return names

    async def _lock(self, session: Session) -> None:
        await session.execute("begin")
        await session.execute("set local lock_timeout = '5s'")
        await session.execute(f"lock table {', '.join(self._tables)} in access exclusive mode")

    def start_monitoring(self) -> None:
        """Start to record the sessions that wait for the lock."""
        self._monitor_task = self._admin.spawn(self._monitor)

    async def _monitor(self) -> None:
        while True:
            await self._look()
            await self._rest(POLL_INTERVAL)

    async def _look(self) -> None:
        looked, self._looked = self._looked, asyncio.Event()
        self._begun_looks += 1
        await self._record_waiters()
        self._ended_looks = self._begun_looks
        looked.set()

    # No asyncio.timeout: where a test has restored sys.modules, there are two copies of asyncio, and its end may be a CancelledError.

    async def _rest(self, seconds: float) -> None:
        """Wait until it is time for the next query, or until a receipt wants it."""
        timer = asyncio.get_running_loop().call_later(seconds, self._wanted.set)
        await self._wanted.wait()
        timer.cancel()
        self._wanted.clear()

    async def _wait_for_look(self) -> bool:
        """Wait for a query that begins from now on. Return False if it has not ended within LOOK_TIMEOUT."""
        looked, before = self._looked, self._begun_looks
        self._wanted.set()
        timer = asyncio.get_running_loop().call_later(LOOK_TIMEOUT, looked.set)
        await looked.wait()
        timer.cancel()
        return self._ended_looks > before

    async def _record_waiters(self) -> None:
        assert self._session is not None, "the monitor ends before the session that holds the lock"
        # A transaction sees pg_stat_activity as it was at its first query: no later session, no later statement.
        await self._session.execute("select pg_stat_clear_snapshot()")
        rows = await self._session.fetch(
            """select l.pid, a.query_start from pg_locks l join pg_stat_activity a on a.pid = l.pid
               where not l.granted and a.application_name <> current_setting('application_name')
                 and l.relation = any ($1::text[]::regclass[]::oid[])""",
            self._tables,
        )
        if rows:
            now = SYSTEM.now() - self._acquired_at
            self._first = now if self._first is None else self._first
            self._last = now
            self._waiters.update((row[0], row[1]) for row in rows)

    def receipt(self) -> Receipt:
        """Return how many have waited for the tables so far. It is unknown if a statement may have waited unseen."""
        is_complete = self.look()
        if not self._waiters and not (is_complete and self._none_gave_up()):
            return Receipt(None, self._unit)
        return Receipt(self._affected(), self._unit, self._first, self._last)

    def _affected(self) -> int:
        """Return the number of sessions that were seen waiting."""
        return len({pid for pid, _ in self._waiters})

    def _none_gave_up(self) -> bool:
        """True if the server's log shows that no statement has stopped waiting before a query could see it."""
        server = self._admin.server
        return server.log_readable and GAVE_UP.search(server.log_text(self._log_begin)) is None

    def release(self) -> None:
        """Release the lock."""
        self._admin.on_released(self)
        if self._monitor_task is not None:
            self._monitor_task.cancel()
            self._monitor_task = None
        sessions = self._take_sessions()
        if sessions:
            self._admin.run(lambda: close_all_quietly(sessions))

    def look(self) -> bool:
        """Record the sessions that wait now. Some may have begun to wait since the last query of the monitor.

        Returns:
            False if that is not known, because the server has ended the session of the monitor, or does not answer in time.
        """
        if self._monitor_task is None or self._monitor_task.done():
            return False
        return bool(self._admin.run(self._wait_for_look))

    def _take_sessions(self) -> list[Session]:
        """Return all sessions of the lock, which has none then."""
        session, self._session = self._session, None
        return [session] if session is not None else []


class RotatingLock(TableLock):
    """A table lock that two sessions hold in turn, so that a statement waits for at most `seconds` and then proceeds.

    The next holder queues for the lock before the present one releases it. Statements that wait by then come first, and there is no gap.

    Args:
        seconds: for which each session holds the lock.
    """

    _unit: ClassVar[str] = "commands"

    def __init__(self, admin: HoldOwner, tables: Sequence[str], fault: str, seconds: float) -> None:
        super().__init__(admin, tables, fault)
        self._seconds = seconds
        self._next_session: Session | None = None

    async def acquire(self) -> None:
        await super().acquire()
        self._next_session = await self._admin.connect()

    @property
    def locked_tables(self) -> list[str]:
        return []  # another lock gets its turn

    async def _monitor(self) -> None:
        while True:
            until = SYSTEM.now() + self._seconds
            while (remaining := until - SYSTEM.now()) > 0:
                await self._look()
                await self._rest(min(POLL_INTERVAL, remaining))
            await self._hand_over()

    async def _hand_over(self) -> None:
        holder, successor = self._session, self._next_session
        assert holder is not None, "the monitor ends before the sessions that hold the lock"
        assert successor is not None, "acquire opens both sessions"
        request = asyncio.ensure_future(self._lock(successor))
        try:
            is_waiting = False
            while not is_waiting and not request.done():
                is_waiting = await holder.fetchval(IS_WAITING, successor.get_server_pid())
            await self._record_waiters()
            await holder.execute("rollback")
            while True:
                try:
                    await request
                    break
                except PostgresError as error:
                    if error.code != LOCK_NOT_AVAILABLE:
                        raise
                    # Another session holds a lock for long: statements are slow enough without this one.
                    await successor.execute("rollback")
                    request = asyncio.ensure_future(self._lock(successor))
        finally:
            request.cancel()
        self._session, self._next_session = successor, holder

    def _affected(self) -> int:
        """Return the number of statements that were seen waiting."""
        return len(self._waiters)

    def _take_sessions(self) -> list[Session]:
        session, self._next_session = self._next_session, None
        return super()._take_sessions() + ([session] if session is not None else [])


class HeldConnections:
    """Connections held so that few are left. The server's log shows the clients that it refused."""

    def __init__(self, admin: HoldOwner, left: int) -> None:
        self._admin = admin
        self._left = left
        self._sessions: list[Session] = []
        self._log_begin = 0

    async def acquire(self) -> None:
        """Open connections until only `left` are left."""
        if not self._admin.server.exclusive:
            raise CannotInject(
                "external cannot postgres.starve(connections=...): every user of that server would be refused"
            )
        session = await self._admin.session()
        free = await session.fetchval(
            """select current_setting('max_connections')::int
                 - (select count(*) from pg_stat_activity where backend_type = 'client backend')"""
        )
        number = free - self._left
        if number < 0:
            raise TooFewConnections(
                f"it would leave {self._left}, but the server has only {counted(free, 'free connections')}"
            )
        while len(self._sessions) < number:
            group = [self._admin.connect() for _ in range(min(CONNECT_AT_ONCE, number - len(self._sessions)))]
            opened = await asyncio.gather(*group, return_exceptions=True)
            self._sessions += [each for each in opened if isinstance(each, Session)]
            for failure in opened:
                if isinstance(failure, BaseException):
                    raise failure
        if self._admin.server.log_readable:
            self._log_begin = self._admin.server.log_size()

    def start_monitoring(self) -> None:
        """Do nothing, because the server's log shows the refused clients."""

    def receipt(self) -> Receipt:
        """Return the number of connections that the server's log shows as refused. It is unknown if the log can't be read."""
        if not self._admin.server.log_readable:
            return Receipt(None, "connections")
        log = self._admin.server.log_text(self._log_begin)
        return Receipt(sum(log.count(refusal) for refusal in REFUSALS), "connections")

    def release(self) -> None:
        """Close the connections, or hand them over to a later strike, which would have taken them too."""
        holds = self._admin.holds
        later = holds[holds.index(self) + 1 :] if self in holds else []
        self._admin.on_released(self)
        sessions, self._sessions = self._sessions, []
        for hold in later:
            if isinstance(hold, HeldConnections):
                hold._sessions += [session for session in sessions if not session.is_closed()]  # of this class
                return
        if sessions:
            self._admin.run(lambda: close_all_quietly(sessions))

    @property
    def locked_tables(self) -> list[str]:
        """No tables."""
        return []
