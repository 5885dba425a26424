"""The monitor of Postgres, which uses one connection beside the pool.

So it can check Postgres and terminate sessions when the pool is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from ..errors import Unavailable
from .connection import CONNECTION_LOST_ERRORS, UNAVAILABLE_ERRORS, connect, describe_error
from .schema import Table
from .status import PostgresStatus

if TYPE_CHECKING:
    from ..settings import ServiceSettings

log = logging.getLogger("service.postgres_monitor")

INTERVAL = 0.4
INTERVAL_DOWN = 0.2
TIMEOUT = 0.6  # together with the interval at most a second, so readiness is never older
READ_INTERVAL = 0.9  # seconds between two readings of `read_more`, so that each second check has one
READ_TIMEOUT = 0.2  # a part of the interval, so that readiness is no older for it
SLOW_CHECK = 0.1  # seconds; after a check that took longer there is no reading, which would take as long
# A session in a state that no live one stays in, and without activity for this many seconds, is a zombie.
ZOMBIE_SETTLE = 0.25

LOG_AGAIN_AFTER = 60.0  # seconds between two log lines about failed statements with the same SQLSTATE

# Checks all that statements need, with one row for each table. It reads the catalogs only, so a lock on a table does not block
# it. $1, $2: tables, and whether rows are deleted. $3 to $7: tables of the columns, columns, the categories of their types, and
# whether an INSERT and an UPDATE write them.
REQUIREMENTS = """
WITH relation AS (SELECT name, deletes, to_regclass(name)::oid AS oid FROM unnest($1::text[], $2::bool[]) AS r (name, deletes)),
     needed AS (SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::bool[], $7::bool[])
                           AS n (relation, name, kinds, inserted, updated)),
     found AS (
       SELECT needed.*, relation.deletes, a.attnum, relation.oid AS attrelid, t.oid AS type, t.typcategory::text AS kind
         FROM needed JOIN relation ON relation.name = needed.relation
         LEFT JOIN pg_attribute a ON a.attrelid = relation.oid AND a.attname = needed.name AND NOT a.attisdropped
         LEFT JOIN pg_type t ON t.oid = a.atttypid),
     ids AS (
       SELECT found.relation, s.seqmax, s.seqincrement, s.seqcycle,
              CASE WHEN has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') THEN pg_sequence_last_value(s.seqrelid) END AS last
         FROM found JOIN pg_depend d ON d.refobjid = found.attrelid AND d.refobjsubid = found.attnum
          AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype IN ('i', 'a')
         JOIN pg_sequence s ON s.seqrelid = d.objid
        WHERE found.name = 'id')
SELECT relation.name, relation.oid IS NOT NULL AS has_table,
       current_setting('transaction_read_only') = 'on' AS read_only,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       (SELECT string_agg(name, ', ') FROM found WHERE found.relation = relation.name
           AND (attnum IS NULL OR position(kind IN kinds) = 0 OR kinds = 'D' AND type <> 'timestamptz'::regtype)) AS wrong,
       (SELECT string_agg(a.attname, ', ') FROM pg_attribute a
         WHERE a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
           AND a.attidentity = ''
           AND a.attname NOT IN (SELECT found.name FROM found WHERE found.relation = relation.name AND inserted)
       ) AS without_default,
       (SELECT string_agg(DISTINCT verb, ', ') FROM found CROSS JOIN LATERAL (VALUES
            ('SELECT', NOT has_column_privilege(attrelid, attnum, 'SELECT')),
            ('INSERT', inserted AND NOT has_column_privilege(attrelid, attnum, 'INSERT')),
            ('UPDATE', updated AND NOT has_column_privilege(attrelid, attnum, 'UPDATE')),
            ('DELETE', deletes AND NOT has_table_privilege(attrelid, 'DELETE'))) AS v (verb, missing)
         WHERE found.relation = relation.name AND missing) AS no_rights,
       EXISTS (SELECT FROM ids WHERE ids.relation = relation.name
                  AND NOT seqcycle AND last::numeric + seqincrement > seqmax) AS no_ids_left
  FROM relation
"""

MONITOR_NAME_PREFIX = "service-monitor:"  # with the boot id, the application_name of this connection
# A monitor queries every second. One without a query for this many seconds does not prove that its instance lives.
MONITOR_SILENCE = 10.0

# Selects sessions of this service that no live process can need. $1: the name of this pool. $2: the pids of this pool.
# $3: longest statement, $4: longest idle time, $5: longest transaction, in seconds. $6, $7: MONITOR_NAME_PREFIX, MONITOR_SILENCE.
# Other boots may be live replicas. A boot with an active monitor is alive and keeps all its sessions. A monitor may be
# disconnected for a short time, so of the other boots only sessions in a state that a live one hardly shows are selected. Only
# a worker that waits for the gateway is in a transaction for longer than a statement, and it repeats a batch that it loses.
# Statements end at the statement timeout, and a pool closes idle connections.
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
    """Checks of Postgres and of server sessions, outside the pool.

    Args:
        settings: of the service.
        boot_id: the connection of this monitor is named `service-monitor:<boot id>`.
        status: receives the result of each check.
        tables: created whenever they are missing. Without one that is not essential, the service is still ready.
        pool_pids: returns the server process ids of the pool's connections.
        read_more: awaited with the connection about once a second while Postgres is up and fast. Its errors are ignored.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        boot_id: str,
        status: PostgresStatus,
        *,
        tables: Sequence[Table],
        pool_pids: Callable[[], Sequence[int]],
        read_more: Callable[[Any], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._status = status
        self._pool_name = f"service:{boot_id}"
        self._monitor_name = f"{MONITOR_NAME_PREFIX}{boot_id}"
        self._tables = {table.name: table for table in tables}
        self._requirements_arguments = _requirements_arguments(tables)
        self._pool_pids = pool_pids
        self._read_more = read_more
        self._read_at = -READ_INTERVAL
        self._clock = clock
        self._connection: Any = None
        self._lock = asyncio.Lock()
        self._capacity_checked = False
        self._logged_at: dict[str, float] = {}
        self._last_report: tuple[str, str] | None = None
        self._last_lack = ""

    async def run(self) -> None:
        """Check Postgres until cancelled."""
        try:
            while True:
                begun = self._clock()
                await self._check()
                checked = self._clock()
                if checked - begun < SLOW_CHECK:
                    await self._read()
                interval = INTERVAL if self._status.up else INTERVAL_DOWN
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, interval - (self._clock() - checked))):
                        await self._status.wake.wait()
                        await asyncio.sleep(0.02)  # requests for a check come in bursts, and one check serves them all
                self._status.wake.clear()
        finally:
            self._disconnect()

    async def _check(self) -> None:
        if self._lock.locked():
            return  # a cleanup uses the connection, and reports an outage
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

    async def _read(self) -> None:
        """Let other parts read by this connection. If that fails, check at once."""
        connection, now = self._connection, self._clock()
        if (
            self._status.state != "up"
            or self._lock.locked()
            or connection is None
            or now - self._read_at < READ_INTERVAL
        ):
            return
        self._read_at = now
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._lock:
                await self._read_more(connection)
        except UNAVAILABLE_ERRORS as error:
            log.debug("reading failed: %s", describe_error(error))
            self._status.wake.set()

    def _set_state(self, error: BaseException | None, state: str = "up", detail: str = "") -> None:
        """Set the status after a check, and log each change once."""
        # A full server refuses the monitor, while the connections of the pool still work.
        if error is not None and not (isinstance(error, asyncpg.TooManyConnectionsError) and self._pool_pids()):
            state, detail = "down", describe_error(error)
        report = (state, "" if state == "down" else detail)  # an outage has one line, although its reason may change
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
        """Log why a statement failed although Postgres is up, once a minute for each SQLSTATE."""
        cause = statement_error.__cause__ if isinstance(statement_error, Unavailable) else statement_error
        state = getattr(cause, "sqlstate", None)
        if cause is None or state is None or isinstance(cause, CONNECTION_LOST_ERRORS):
            return
        now = self._clock()
        if now - self._logged_at.get(state, -LOG_AGAIN_AFTER) >= LOG_AGAIN_AFTER:
            self._logged_at[state] = now
            log.warning("Postgres refuses a statement: %s", describe_error(cause))

    async def _connect(self) -> Any:
        """Return the connection, opened if necessary. The caller holds the lock."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._settings, self._monitor_name)
            self._connection.add_termination_listener(lambda _: self._status.wake.set())
        return self._connection

    async def _requirements(self, connection: Any) -> tuple[str, str]:
        """Return the state of a Postgres that answers, and the reason for the log. Create missing tables."""
        found = await self._find_tables(connection)
        missing = [name for name, row in found.items() if not row["has_table"] and not row["read_only"]]
        refused = {name: why for name in missing if (why := await self._create_table(connection, found[name]))}
        if missing:
            found = await self._find_tables(connection)
        lacks = {name: _table_state(row, refused.get(name)) for name, row in found.items()}
        lacks = {name: (state, detail) for name, (state, detail) in lacks.items() if state != "up"}
        essential = [lack for name, lack in lacks.items() if self._tables[name].essential]
        self._log_others([detail for state, detail in lacks.values() if (state, detail) not in essential])
        return essential[0] if essential else ("up", "")

    async def _find_tables(self, connection: Any) -> dict[str, Any]:
        return {row["name"]: row for row in await connection.fetch(REQUIREMENTS, *self._requirements_arguments)}

    async def _create_table(self, connection: Any, found: Any) -> str | None:
        """Create a table. Return the reason if Postgres refuses.

        If two instances start at once, one creates the table and the other ignores the error.
        """
        if not found["may_create"]:
            return "there is no schema in which the role of DATABASE_URL may create it"
        try:
            await connection.execute(self._tables[found["name"]].definition)
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
            return None
        except asyncpg.PostgresError as error:
            if isinstance(error, (*CONNECTION_LOST_ERRORS, asyncpg.OperatorInterventionError)):
                raise
            return describe_error(error)
        return None

    def _log_others(self, details: Sequence[str]) -> None:
        """Log each change of what the tables that are not essential lack."""
        lack = "; ".join(details)
        if lack != self._last_lack:
            self._last_lack = lack
            if lack:
                log.warning("Postgres lacks what contacts and jobs need: %s", lack)
            else:
                log.info("Postgres has what contacts and jobs need")

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
        """Terminate server sessions that no live process can need. Return the number that have ended.

        Args:
            lost_pids: sessions to terminate as well, because their connection was just closed.
            seconds: time limit of the whole call.

        Raises:
            UNAVAILABLE_ERRORS: one of these, if Postgres could not be queried.
        """
        try:
            async with asyncio.timeout(seconds), self._lock:
                async with asyncio.timeout(
                    TIMEOUT
                ):  # no check runs at the same time, so an outage must be detected here as fast
                    connection = await self._connect()
                    await connection.execute("SELECT 1")
                pids = [*await self._zombies(connection), *lost_pids]
                if not pids:
                    return 0
                await connection.fetch(TERMINATE, pids)
                deadline = self._clock() + seconds / 3
                # The client gets no event when a session ends, so poll.
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
        """Return the sessions that two queries select without activity in between."""
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


def _requirements_arguments(tables: Sequence[Table]) -> list[list[object]]:
    """Return the arguments of REQUIREMENTS."""
    columns = [(table.name, *column) for table in tables for column in table.columns]
    return [
        [table.name for table in tables],
        [table.deletes for table in tables],
        *(list(values) for values in zip(*columns, strict=True)),
    ]


def _table_state(found: Any, refused: str | None) -> tuple[str, str]:
    """Return the state of one table, and the reason for the log.

    Args:
        found: the row of the table in the result of REQUIREMENTS.
        refused: the reason why the table cannot be created, if it was tried.
    """
    name = found["name"]
    if not found["has_table"]:
        why = f"cannot be created: {refused}" if refused else "Postgres accepts no writes"
        return "no table", f"the table {name} is missing and {why}"
    if found["wrong"]:
        return "wrong columns", f"columns of {name} that are missing or of another type: {found['wrong']}"
    if found["without_default"]:
        return "wrong columns", f"columns of {name} that need a default: {found['without_default']}"
    if found["no_rights"]:
        return "no rights", f"the role of DATABASE_URL lacks rights on {name}: {found['no_rights']}"
    if found["read_only"]:
        return "read-only", "it accepts no writes (transaction_read_only is on)"
    if found["no_ids_left"]:
        return "no ids left", f"the sequence of {name}.id is at its end"
    return "up", ""
