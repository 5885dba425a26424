"""The watch on Postgres: one connection beside the pool, which knows whether Postgres answers and can act when the pool is full."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from .database import FAULTS, connect_options, keep_alive

if TYPE_CHECKING:
    from .settings import Settings

log = logging.getLogger("service.watch")

INTERVAL = 0.4
INTERVAL_AWAY = 0.2
TIMEOUT = 0.6  # with the interval at most a second: what readiness tells is never older
STILL = 0.25  # a session that has not moved for so long, in a state that no live one stays in, is a zombie

# Sessions of this service that no live process can need. $1: our name. $2: pids of our pool. $3, $4: seconds.
# Other boots may be replicas that live, so only what a live one never shows counts: it opens no transaction blocks, its
# statements end at the statement timeout, and its pool lets idle connections go.
ZOMBIES = """
SELECT pid, backend_start, state_change
  FROM pg_stat_activity
 WHERE pid <> pg_backend_pid() AND datname = current_database() AND usename = current_user
   AND ((application_name LIKE 'service:%' AND application_name <> $1
         AND (state LIKE 'idle in transaction%'
              OR state = 'active' AND clock_timestamp() - query_start > make_interval(secs => $3)
              OR state = 'idle' AND clock_timestamp() - state_change > make_interval(secs => $4)))
     OR (application_name = $1 AND NOT pid = ANY($2)
         AND clock_timestamp() - backend_start > make_interval(secs => $3)))
"""
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY($1) AND application_name LIKE 'service:%'"
)
LIVING = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)"


class Watch:
    """Postgres as seen from outside the pool.

    Args:
        schema: made whenever it is missing.
        pool_pids: the sessions that our pool holds now.
    """

    def __init__(
        self,
        settings: Settings,
        boot_id: str,
        *,
        schema: str,
        pool_pids: Callable[[], Sequence[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._name = f"service:{boot_id}"
        self._own_name = f"service-watch:{boot_id}"
        self._schema = schema
        self._pool_pids = pool_pids
        self._clock = clock
        self._connection: Any = None
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._has_schema = False
        self._capacity_checked = False
        self.up = False

    def suspect(self) -> None:
        """Somebody found Postgres away, or its table missing: look now."""
        self._has_schema = False
        self._wake.set()

    async def run(self) -> None:
        """Look for ever."""
        try:
            while True:
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL if self.up else INTERVAL_AWAY):
                        await self._wake.wait()
                        await asyncio.sleep(0.02)  # many suspect at once; one look answers all
                self._wake.clear()
        finally:
            self._drop()

    async def _look(self) -> None:
        if self._lock.locked():
            return  # a cleanup has the connection; it says if Postgres is away
        error: BaseException | None = None
        try:
            async with asyncio.timeout(TIMEOUT), self._lock:
                connection = await self._connected()
                if self._has_schema:
                    await connection.execute("SELECT 1")
                else:
                    await self._make_schema(connection)
                await self._check_capacity(connection)
        except FAULTS as failure:
            self._drop()
            error = failure
        self._judge(error)

    def _judge(self, error: BaseException | None) -> None:
        """Say whether Postgres is up, after an attempt to ask it."""
        # A server that is full refuses us, while the pool's own connections work on.
        up = error is None or (isinstance(error, asyncpg.TooManyConnectionsError) and bool(self._pool_pids()))
        if up != self.up:
            self.up = up
            if up:
                log.info("Postgres connected successfully")
            else:
                log.warning("Postgres connection failed: %s: %s", type(error).__name__, error)

    async def _connected(self) -> Any:
        """The one connection. Call with the lock held."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._settings.database_url, **connect_options(self._settings, self._own_name)
            )
            await keep_alive(self._connection)
            self._connection.add_termination_listener(lambda _: self._wake.set())
        return self._connection

    async def _make_schema(self, connection: Any) -> None:
        """Two starts at once may both find the table missing; then one of them loses, and that is fine."""
        with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
            if await connection.fetchval("SELECT to_regclass('campaigns')") is None:
                await connection.execute(self._schema)
        self._has_schema = True

    async def _check_capacity(self, connection: Any) -> None:
        if self._capacity_checked:
            return
        self._capacity_checked = True
        rows = await connection.fetch(
            "SELECT name, setting::int FROM pg_settings"
            " WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
        )
        found = {row["name"]: row["setting"] for row in rows}
        room = 2 * found["max_connections"] - sum(found.values())
        wanted = self._settings.db_pool_max + 1
        if room < wanted:
            log.warning(
                "DB_POOL_MAX is %d, but Postgres has room for %d connections (and one is needed beside the pool):"
                " raise its max_connections or lower DB_POOL_MAX",
                self._settings.db_pool_max,
                room,
            )

    async def end_zombies(self, left: Sequence[int], seconds: float) -> int:
        """End server sessions that no live process can need, and those in `left`. Returns how many are gone.

        Args:
            left: sessions whose connection we have just given up.
            seconds: how long all of it may take.

        Raises:
            one of FAULTS: Postgres could not be asked.
        """
        try:
            async with asyncio.timeout(seconds), self._lock:
                async with asyncio.timeout(TIMEOUT):  # nobody else looks meanwhile, so this must tell as soon
                    connection = await self._connected()
                    await connection.execute("SELECT 1")
                pids = [*await self._zombies(connection), *left]
                if not pids:
                    return 0
                await connection.fetch(TERMINATE, pids)
                end = self._clock() + seconds / 3
                # Only the server knows when they are gone, so there is no event to wait for.
                while (living := await connection.fetchval(LIVING, pids)) and self._clock() < end:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                return len(pids) - int(living)
        except FAULTS as error:
            self._drop()
            self.suspect()
            self._judge(error)
            raise

    async def _zombies(self, connection: Any) -> list[int]:
        """Seen twice, without having moved in between."""
        settings = self._settings
        limits = (settings.db_command_timeout * 2, settings.db_pool_idle_timeout * 2)
        first = await connection.fetch(ZOMBIES, self._name, list(self._pool_pids()), *limits)
        if not first:
            return []
        await asyncio.sleep(STILL)
        second = await connection.fetch(ZOMBIES, self._name, list(self._pool_pids()), *limits)
        before = {tuple(row) for row in first}
        return [row["pid"] for row in second if tuple(row) in before]

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*FAULTS):
                connection.terminate()
