"""The watch on Postgres: one connection beside the pool, which knows whether Postgres answers and can act when the pool is full."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from .database import CONNECTION_LOST_ERRORS, UNAVAILABLE_ERRORS, connect_options, describe_error, enable_keepalive
from .errors import Unavailable
from .postgres_status import PostgresStatus

if TYPE_CHECKING:
    from .settings import ServiceSettings

log = logging.getLogger("service.postgres_monitor")

INTERVAL = 0.4
INTERVAL_DOWN = 0.2
TIMEOUT = 0.6  # with the interval at most a second: what readiness tells is never older
ZOMBIE_SETTLE = 0.25  # a session that has not moved for so long, in a state that no live one stays in, is a zombie

LOG_AGAIN_AFTER = 60.0  # seconds between two log lines about statements that fail for one cause

# All that requests need, asked of the catalogs, so that a lock on the table holds nothing up. $1 to $4: columns, the
# categories of their types, and whether a creation and a change write them.
REQUIREMENTS = """
WITH needed AS (SELECT * FROM unnest($1::text[], $2::text[], $3::bool[], $4::bool[]) AS n (name, kinds, created, changed)),
     relation AS (SELECT to_regclass('campaigns')::oid AS oid),
     found AS (
       SELECT needed.*, a.attnum, a.attrelid, t.oid AS type, t.typcategory::text AS kind
         FROM needed CROSS JOIN relation
         LEFT JOIN pg_attribute a ON a.attrelid = relation.oid AND a.attname = needed.name AND NOT a.attisdropped
         LEFT JOIN pg_type t ON t.oid = a.atttypid),
     ids AS (
       SELECT s.seqmax, s.seqincrement, s.seqcycle,
              CASE WHEN has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') THEN pg_sequence_last_value(s.seqrelid) END AS last
         FROM found JOIN pg_depend d ON d.refobjid = found.attrelid AND d.refobjsubid = found.attnum
          AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype IN ('i', 'a')
         JOIN pg_sequence s ON s.seqrelid = d.objid
        WHERE found.name = 'id')
SELECT relation.oid IS NOT NULL AS has_table,
       current_setting('transaction_read_only') = 'on' AS read_only,
       (SELECT string_agg(name, ', ') FROM found
         WHERE attnum IS NULL OR position(kind IN kinds) = 0 OR kinds = 'D' AND type <> 'timestamptz'::regtype) AS wrong,
       (SELECT string_agg(a.attname, ', ') FROM pg_attribute a
         WHERE a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
           AND a.attidentity = '' AND a.attname NOT IN (SELECT name FROM needed WHERE created)) AS without_default,
       (SELECT string_agg(DISTINCT verb, ', ') FROM found CROSS JOIN LATERAL (VALUES
            ('SELECT', NOT has_column_privilege(attrelid, attnum, 'SELECT')),
            ('INSERT', created AND NOT has_column_privilege(attrelid, attnum, 'INSERT')),
            ('UPDATE', changed AND NOT has_column_privilege(attrelid, attnum, 'UPDATE')),
            ('DELETE', NOT has_table_privilege(attrelid, 'DELETE'))) AS v (verb, missing)
         WHERE missing) AS no_rights,
       EXISTS (SELECT FROM ids WHERE NOT seqcycle AND last::numeric + seqincrement > seqmax) AS no_ids_left
  FROM relation
"""

MONITOR_NAME_PREFIX = "service-monitor:"  # and the boot id: the application_name of this connection
MONITOR_SILENCE = 10.0  # a watch asks every second; one that has not for so long is no sign of a living instance

# Sessions of this service that no live process can need. $1: our name. $2: pids of our pool. $3: seconds that a statement may
# take in the end. $4: seconds that a connection may idle. $5: the longest transaction, in seconds. $6, $7: WATCH_NAME, SILENT.
# Other boots may be replicas that live. One whose watch is there lives, and keeps all its sessions. Of the others only what
# a live one never shows counts, because a watch may be away for a moment: it opens no transaction blocks, so that nothing of
# its own is in a transaction for longer than a statement; its statements end at the statement timeout, and its pool lets idle
# connections go.
ZOMBIES = """
SELECT pid, backend_start, state_change
  FROM pg_stat_activity AS session
 WHERE pid <> pg_backend_pid() AND datname = current_database() AND usename = current_user
   AND ((application_name LIKE 'service:%' AND application_name <> $1
         AND NOT EXISTS (SELECT FROM pg_stat_activity AS watch
                          WHERE watch.application_name = $6 || substr(session.application_name, length('service:') + 1)
                            AND watch.datname = session.datname AND watch.usename = session.usename
                            AND clock_timestamp() - watch.state_change < make_interval(secs => $7))
         AND (state LIKE 'idle in transaction%' AND clock_timestamp() - xact_start > make_interval(secs => $5)
              OR state = 'active' AND clock_timestamp() - query_start > make_interval(secs => $3)
              OR state = 'idle' AND clock_timestamp() - state_change > make_interval(secs => $4)))
     OR (application_name = $1 AND NOT pid = ANY($2)
         AND clock_timestamp() - backend_start > make_interval(secs => $3)))
"""
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY($1) AND application_name LIKE 'service:%'"
)
STILL_CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)"


class PostgresMonitor:
    """Postgres as seen from outside the pool.

    Args:
        status: kept up to date.
        schema: made whenever it is missing.
        required_columns: what requests need of each column: its name, the categories of its type, and whether a creation and a change
            write it.
        pool_pids: the sessions that our pool holds now.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        boot_id: str,
        status: PostgresStatus,
        *,
        schema: str,
        required_columns: Sequence[tuple[str, str, bool, bool]],
        pool_pids: Callable[[], Sequence[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._status = status
        self._pool_name = f"service:{boot_id}"
        self._monitor_name = f"{MONITOR_NAME_PREFIX}{boot_id}"
        self._schema = schema
        self._required_columns = [list(column) for column in zip(*required_columns, strict=True)]
        self._pool_pids = pool_pids
        self._clock = clock
        self._connection: Any = None
        self._lock = asyncio.Lock()
        self._capacity_checked = False
        self._logged_at: dict[str, float] = {}
        self._last_report: tuple[str, str] | None = None

    async def run(self) -> None:
        """Look for ever."""
        try:
            while True:
                await self._check()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL if self._status.up else INTERVAL_DOWN):
                        await self._status.wake.wait()
                        await asyncio.sleep(0.02)  # many suspect at once; one look answers all
                self._status.wake.clear()
        finally:
            self._disconnect()

    async def _check(self) -> None:
        if self._lock.locked():
            return  # a cleanup has the connection; it says if Postgres is away
        error: BaseException | None = None
        state, detail = "up", ""
        try:
            async with asyncio.timeout(TIMEOUT), self._lock:
                connection = await self._connect()
                state, detail = await self._requirements(connection)
                await self._check_capacity(connection)
        except UNAVAILABLE_ERRORS as failure:
            self._disconnect()
            error = failure
        self._set_state(error, state, detail)

    def _set_state(self, error: BaseException | None, state: str = "up", detail: str = "") -> None:
        """Say what state Postgres is in, after an attempt to ask it: one line for each change."""
        # A server that is full refuses us, while the pool's own connections work on.
        if error is not None and not (isinstance(error, asyncpg.TooManyConnectionsError) and self._pool_pids()):
            state, detail = "down", describe_error(error)
        report = (state, "" if state == "down" else detail)  # while down, its reasons may vary: refused, then starting
        if report != self._last_report:
            self._last_report = report
            if state == "up":
                log.info("Postgres connected successfully")
            elif state == "down":
                log.warning("Postgres connection failed: %s", detail)
            else:
                log.warning("Postgres is not as the service needs it: %s: %s", state, detail)
        self._status.state, self._status.up = state, state != "down"
        statement_error = self._status.take_statement_error()
        if state == "up" and statement_error is not None:
            self._log_cause(statement_error)

    def _log_cause(self, statement_error: BaseException) -> None:
        """Name the cause of a statement that failed although Postgres seems well: once a minute for each cause."""
        cause = statement_error.__cause__ if isinstance(statement_error, Unavailable) else statement_error
        state = getattr(cause, "sqlstate", None)
        if cause is None or state is None or isinstance(cause, CONNECTION_LOST_ERRORS):
            return
        now = self._clock()
        if now - self._logged_at.get(state, -LOG_AGAIN_AFTER) >= LOG_AGAIN_AFTER:
            self._logged_at[state] = now
            log.warning("Postgres refuses a statement: %s", describe_error(cause))

    async def _connect(self) -> Any:
        """The one connection. Call with the lock held."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._settings.database_url, **connect_options(self._settings, self._monitor_name)
            )
            await enable_keepalive(self._connection)
            self._connection.add_termination_listener(lambda _: self._status.wake.set())
        return self._connection

    async def _requirements(self, connection: Any) -> tuple[str, str]:
        """Return the state of a Postgres that answers, and for the log what is missing. Makes a table that is missing."""
        found = await connection.fetchrow(REQUIREMENTS, *self._required_columns)
        if not found["has_table"] and not found["read_only"]:
            try:
                await self._create_schema(connection)
            except asyncpg.PostgresError as error:
                if isinstance(error, (*CONNECTION_LOST_ERRORS, asyncpg.OperatorInterventionError)):
                    raise
                return "no table", f"the table campaigns is missing and cannot be made: {describe_error(error)}"
            found = await connection.fetchrow(REQUIREMENTS, *self._required_columns)
        if not found["has_table"]:
            return "no table", "the table campaigns is missing, and Postgres takes no writes"
        if found["wrong"]:
            return "wrong columns", f"columns of campaigns that are missing or of another type: {found['wrong']}"
        if found["without_default"]:
            return "wrong columns", f"columns of campaigns that need a default: {found['without_default']}"
        if found["no_rights"]:
            return "no rights", f"the role of DATABASE_URL lacks rights on campaigns: {found['no_rights']}"
        if found["read_only"]:
            return "read-only", "it takes no writes (transaction_read_only is on)"
        if found["no_ids_left"]:
            return "no ids left", "the sequence of campaigns.id is at its end"
        return "up", ""

    async def _create_schema(self, connection: Any) -> None:
        """Two starts at once may both find the table missing; then one of them loses, and that is fine."""
        with contextlib.suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
            await connection.execute(self._schema)

    async def _check_capacity(self, connection: Any) -> None:
        if self._capacity_checked:
            return
        self._capacity_checked = True
        rows = await connection.fetch(
            "SELECT name, setting::int FROM pg_settings"
            " WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
        )
        found = {row["name"]: row["setting"] for row in rows}
        available = 2 * found["max_connections"] - sum(found.values())
        needed = self._settings.db_pool_max + 1
        if available < needed:
            log.warning(
                "DB_POOL_MAX is %d, but Postgres has room for %d connections (and one is needed beside the pool):"
                " raise its max_connections or lower DB_POOL_MAX",
                self._settings.db_pool_max,
                available,
            )

    async def terminate_zombies(self, lost_pids: Sequence[int], seconds: float) -> int:
        """End server sessions that no live process can need, and `lost_pids`. Returns how many are gone.

        Args:
            lost_pids: sessions whose connection we have just given up.
            seconds: how long all of it may take.

        Raises:
            one of FAULTS: Postgres could not be asked.
        """
        try:
            async with asyncio.timeout(seconds), self._lock:
                async with asyncio.timeout(TIMEOUT):  # nobody else looks meanwhile, so this must tell as soon
                    connection = await self._connect()
                    await connection.execute("SELECT 1")
                pids = [*await self._zombies(connection), *lost_pids]
                if not pids:
                    return 0
                await connection.fetch(TERMINATE, pids)
                deadline = self._clock() + seconds / 3
                # Only the server knows when they are gone, so there is no event to wait for.
                while (remaining := await connection.fetchval(STILL_CONNECTED, pids)) and self._clock() < deadline:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                if remaining:
                    log.warning("%d sessions of Postgres did not end after pg_terminate_backend", remaining)
                return len(pids) - int(remaining)
        except UNAVAILABLE_ERRORS as error:
            self._disconnect()
            self._status.wake.set()
            self._set_state(error)
            raise

    async def _zombies(self, connection: Any) -> list[int]:
        """Seen twice, without having moved in between."""
        settings = self._settings
        limits = (settings.db_command_timeout * 2, settings.db_pool_idle_timeout * 2, settings.db_command_timeout)

        async def find_zombies() -> Sequence[Any]:
            found: Sequence[Any] = await connection.fetch(
                ZOMBIES, self._pool_name, list(self._pool_pids()), *limits, MONITOR_NAME_PREFIX, MONITOR_SILENCE
            )
            return found

        first = await find_zombies()
        if not first:
            return []
        await asyncio.sleep(ZOMBIE_SETTLE)
        second = await find_zombies()
        before = {tuple(row) for row in first}
        return [row["pid"] for row in second if tuple(row) in before]

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*UNAVAILABLE_ERRORS):
                connection.terminate()
