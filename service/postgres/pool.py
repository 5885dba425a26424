"""The Postgres pool. Every wait has a time limit, every checkout is recorded, and every fault becomes `Unavailable`.

Rules: a request or a worker takes a slot before it takes a connection of asyncpg's pool. So use is measured correctly
while connections are being opened, too. A request's checkout runs one statement, outside a transaction block. Only
workers open transactions, each for at most `transaction_limit`. A session of this service that has been in a transaction
for longer is therefore never a live one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

from ..errors import Unavailable
from .connection import (
    CONNECTION_LOST_ERRORS,
    UNAVAILABLE_ERRORS,
    Connection,
    connect_options,
    enable_keepalive,
    readable_answers,
    transaction_limit,
)
from .slots import ConnectionSlots
from .status import PostgresStatus

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.database")

RELEASE_TIMEOUT = 1.0
MIN_RELEASE_TIMEOUT = 0.1  # after the deadline of its request
CLOSE_TIMEOUT = 1.0
PROBE_TIMEOUT = 0.5
SWEEP_MARGIN = 1.0  # seconds; a stalled event loop ends a checkout that much later
SETTLE_TIME = 0.25  # seconds in which a process that was stopped for longer ends what is overdue


@dataclass(slots=True, eq=False)
class Checkout:
    """One connection that is checked out."""

    connection: Any
    pid: int
    task: asyncio.Task[Any] | None
    deadline: float
    release_slot: Callable[[], None]


class PoolUsage:
    """The use of the pool, now and as an average over time.

    Attributes:
        size: largest number of connections.
        in_use: connections in use now.
        waiting: requests that wait for a connection now.
    """

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self._clock = clock
        self._since = self._updated_at = clock()
        self._busy_seconds = 0.0
        self._earlier_busy_seconds = 0.0
        self.in_use = 0
        self.waiting = 0

    def add(self, by: int) -> None:
        self._update()
        self.in_use += by

    def percent(self) -> float:
        """Return the time-weighted average since the last call, in percent of the pool."""
        now = self._update()  # read once, because time between two readings would count twice
        seconds, busy = now - self._since, self._busy_seconds
        self._since, self._busy_seconds = now, 0.0
        self._earlier_busy_seconds += busy
        return 100.0 * busy / (seconds * self.size) if seconds > 0 else 100.0 * self.in_use / self.size

    def total_busy_seconds(self) -> float:
        """Return the seconds for which connections were in use, all connections together. It never decreases."""
        self._update()
        return self._earlier_busy_seconds + self._busy_seconds

    def _update(self) -> float:
        """Add the use until now. Return the time."""
        now = self._clock()
        self._busy_seconds += self.in_use * (now - self._updated_at)
        self._updated_at = now
        return now


class Database:
    """The pool of connections. `start` does no I/O, so the service starts without Postgres.

    Args:
        boot_id: the sessions of this process are named `service:<boot id>`.
        status: receives the error of each statement that failed, so that Postgres is checked at once.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        boot_id: str,
        status: PostgresStatus,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._status = status
        self._clock = clock
        self._pool: Any = None
        self._slots = ConnectionSlots(settings.db_pool_max, settings.worker_connections)
        self._checkouts: set[Checkout] = set()
        self._generation = 0
        self.application_name = f"service:{boot_id}"
        self.usage = PoolUsage(settings.db_pool_max, clock)
        self.for_workers = WorkerDatabase(self)

    async def start(self) -> None:
        self._pool = await asyncpg.create_pool(
            self._settings.database_url,
            min_size=0,  # asyncpg never closes idle connections below min_size
            max_size=self._settings.db_pool_max,
            max_inactive_connection_lifetime=self._settings.db_pool_idle_timeout,
            init=enable_keepalive,
            connection_class=Connection,
            **connect_options(self._settings, self.application_name),
        )

    async def close(self) -> None:
        """Close gracefully within CLOSE_TIMEOUT, else at once."""
        if self._pool is not None:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._pool.close()
            except UNAVAILABLE_ERRORS:
                self._pool.terminate()

    async def read(self, sql: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """Return rows. A read is tried again on a new connection if the first connection was dead.

        Both tries together have the time of one.
        """
        return await self._read(sql, args)

    async def write(self, sql: str, *args: object) -> Mapping[str, Any] | None:
        """Run a statement and return its row. After Unavailable the write may or may not have happened."""
        row: Mapping[str, Any] | None = await self._run("fetchrow", sql, args, self._deadline())
        return row

    def _deadline(self) -> float:
        """Return the time by which a request that begins now has waited for a connection and run its statement."""
        return self._clock() + self._settings.db_pool_acquire_timeout + self._settings.db_command_timeout

    async def _read(self, sql: str, args: tuple[object, ...], *, worker: bool = False) -> Sequence[Mapping[str, Any]]:
        deadline = self._deadline()
        try:
            rows: Sequence[Mapping[str, Any]] = await self._run("fetch", sql, args, deadline, worker=worker)
        except ConnectionLost:
            rows = await self._run("fetch", sql, args, deadline, worker=worker)
        return rows

    async def _run(
        self, method: str, sql: str, args: tuple[object, ...], deadline: float, *, worker: bool = False
    ) -> Any:
        with self._errors_reported():
            async with self._checkout(deadline, worker=worker) as connection:
                # asyncpg applies its command_timeout to several parts of a statement, such as the first look-up of a type.
                async with asyncio.timeout(min(self._settings.db_command_timeout, deadline - self._clock())):
                    return await getattr(connection, method)(sql, *args)

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """Check out a connection for a worker, and run the block in a transaction."""
        limit = transaction_limit(self._settings)
        with self._errors_reported():
            async with self._checkout(worker=True, longest_use=limit) as connection, asyncio.timeout(limit):
                await connection.execute("BEGIN")
                try:
                    yield connection
                except BaseException:
                    with contextlib.suppress(asyncpg.InterfaceError):
                        connection.terminate()  # a ROLLBACK could wait, and Postgres rolls back without it
                    raise
                await connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors_reported(self) -> Iterator[None]:
        """Turn every error of Postgres into Unavailable, and request a check of Postgres."""
        try:
            yield
        except ConnectionLost as error:
            self._status.check_now(error)
            raise
        except UNAVAILABLE_ERRORS as error:
            self._status.check_now(error)
            raise Unavailable("The database cannot answer now.") from error

    @contextlib.asynccontextmanager
    async def _checkout(
        self, deadline: float = math.inf, *, worker: bool = False, longest_use: float | None = None
    ) -> AsyncIterator[Any]:
        """Check out a connection, and return it to the pool within bounded time.

        Args:
            deadline: the time by which the request ends. Later the connection is closed and not reset.
            worker: True for a worker.
            longest_use: seconds. None for one statement.
        """
        acquired_by = min(deadline, self._clock() + self._settings.db_pool_acquire_timeout)
        release_slot = await self._acquire_slot(acquired_by - self._clock(), worker=worker)
        try:
            with readable_answers():
                connection = await self._pool.acquire(timeout=max(0.001, acquired_by - self._clock()))
        except BaseException:
            release_slot()
            raise
        checkout = Checkout(
            connection,
            connection.get_server_pid(),
            asyncio.current_task(),
            self._clock() + (longest_use or self._settings.db_command_timeout) + RELEASE_TIMEOUT + SWEEP_MARGIN,
            release_slot,
        )
        self._checkouts.add(checkout)
        generation = self._generation
        try:
            yield connection
        except TimeoutError:
            self._drop_idle(generation)
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()  # otherwise release would wait for the server to confirm the cancellation
            raise
        except CONNECTION_LOST_ERRORS as error:
            self._drop_idle(generation)
            raise ConnectionLost("The database cannot answer now.") from error
        finally:
            await self._release(checkout, deadline)

    def _drop_idle(self, generation: int) -> None:
        """Close the idle connections, because one of their generation was dead. The next checkouts open new ones.

        All are closed in one step of the event loop, so none can be checked out in between. asyncpg's expire_connections
        would close them one by one, each in a task that waits for an answer.
        """
        if generation == self._generation:
            self._generation += 1
            for holder in self._pool._holders:
                if holder.is_idle() and holder.is_connected():
                    holder.terminate()

    async def _acquire_slot(self, seconds: float, *, worker: bool = False) -> Callable[[], None]:
        """Wait for a slot. Return a function that releases it, and does nothing when called again.

        Args:
            seconds: longest wait.
            worker: True for a worker.
        """
        self.usage.waiting += not worker
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire(worker=worker)
        except TimeoutError:
            if worker:
                raise NoConnectionForWorker("All connections of the database are in use.") from None
            raise
        finally:
            self.usage.waiting -= not worker
        self.usage.add(+1)
        held = True

        def release_slot() -> None:
            nonlocal held
            if held:
                held = False
                self.usage.add(-1)
                self._slots.release(worker=worker)

        return release_slot

    async def _release(self, checkout: Checkout, deadline: float) -> None:
        seconds = min(RELEASE_TIMEOUT, max(MIN_RELEASE_TIMEOUT, deadline - self._clock()))
        try:
            await self._pool.release(checkout.connection, timeout=seconds)
        except UNAVAILABLE_ERRORS as error:  # the statement has ended, and its outcome is final
            log.debug("Releasing a connection failed: %s: %s", type(error).__name__, error)
        finally:
            self._checkouts.discard(checkout)
            checkout.release_slot()

    def server_pids(self) -> list[int]:
        """Return the server process ids of all open connections of the pool."""
        if self._pool is None:
            return []
        holders = [holder._con for holder in self._pool._holders if holder.is_connected()]
        return [connection.get_server_pid() for connection in holders]

    def size(self) -> int:
        return 0 if self._pool is None else int(self._pool.get_size())

    async def settle(self) -> None:
        """Let overdue checkouts end by themselves. None is leaked if the process was stopped, as by a migration of its machine."""
        if self._overdue():
            await asyncio.sleep(SETTLE_TIME)

    def _overdue(self) -> list[Checkout]:
        return [checkout for checkout in self._checkouts if checkout.deadline < self._clock()]

    def sweep_leaked(self) -> list[int]:
        """Close every connection that is checked out past its deadline. Return the server process ids."""
        closed_pids = []
        for checkout in self._overdue():
            with contextlib.suppress(*UNAVAILABLE_ERRORS):
                checkout.connection.terminate()
            self._checkouts.discard(checkout)
            checkout.release_slot()
            closed_pids.append(checkout.pid)
        return closed_pids

    async def sweep_dead(self) -> int:
        """Probe all idle connections concurrently and close those that do not answer. Return the number closed."""
        if self._pool is None:
            return 0
        closed = await asyncio.gather(*(self._close_if_dead() for _ in range(self._pool.get_idle_size())))
        return sum(closed)

    async def _close_if_dead(self) -> bool:
        """Check out one idle connection, so that no request takes it, and probe it. Return True if it was closed."""
        if self._slots.locked() or self._pool.get_idle_size() == 0:
            return False
        release_slot = await self._acquire_slot(PROBE_TIMEOUT)
        try:
            with readable_answers():
                connection = await self._pool.acquire(timeout=PROBE_TIMEOUT)
            try:
                await connection.execute("SELECT 1", timeout=PROBE_TIMEOUT)
                return False
            except UNAVAILABLE_ERRORS:
                with contextlib.suppress(*UNAVAILABLE_ERRORS):
                    connection.terminate()
                return True
            finally:
                with contextlib.suppress(*UNAVAILABLE_ERRORS):
                    await self._pool.release(connection, timeout=PROBE_TIMEOUT)
        except UNAVAILABLE_ERRORS:
            return False  # no connection was checked out, so none was closed
        finally:
            release_slot()


class WorkerDatabase:
    """The pool as workers use it, with at most WORKER_CONNECTIONS and never the last connection that requests could get."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, sql: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """Return rows, as `Database.read` does."""
        return await self._database._read(sql, args, worker=True)

    async def write(self, sql: str, *args: object) -> Mapping[str, Any] | None:
        """Run a statement and return its row, as `Database.write` does."""
        database = self._database
        row: Mapping[str, Any] | None = await database._run("fetchrow", sql, args, database._deadline(), worker=True)
        return row

    def transaction(self) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """Return a context manager that runs its block in a transaction, which it commits unless the block fails.

        The block may take `transaction_limit` seconds in all. After Unavailable the transaction may have been committed,
        but only if the block itself did not fail.
        """
        return self._database._transaction()


class Statements(Protocol):
    """The pool, as requests or as workers use it."""

    async def read(self, sql: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """Return rows."""

    async def write(self, sql: str, *args: object) -> Mapping[str, Any] | None:
        """Run a statement and return its row."""


class Transaction(Protocol):
    """The connection of a transaction."""

    async def fetch(self, sql: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """Return rows."""

    async def fetchrow(self, sql: str, *args: object) -> Mapping[str, Any] | None:
        """Return the first row, or None."""


class NoConnectionForWorker(Unavailable):
    """Requests need all connections, so a worker has to wait. Nothing is wrong with Postgres."""


class ConnectionLost(Unavailable):
    """The connection was lost during the statement."""
