"""The superuser's door to Postgres, around the proxy: clean state between tests, locks and connections held by faults.

The sessions run on a loop of their own in one background thread, because the control plane is synchronous and a test may have a
running loop in its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from ..backends.backend import Server
from ..backends.session.background import BackgroundLoop
from ..clients.postgres import TERMINATED, PostgresError, Row, Session, connect
from ..clock import SYSTEM, wait_until_async
from ..errors import SetupError
from ..redaction import scrubbed
from .postgres_baseline import CLUSTER, HAS_OBJECTS, Cluster, assignment, fingerprint, literal, quoted, settings_of
from .postgres_holds import HeldConnections, RotatingLock, TableLock, end

if TYPE_CHECKING:
    from pathlib import Path

Step: TypeAlias = "str | Path | Callable[[str], object]"
Init: TypeAlias = "Step | Sequence[Step]"
Result = TypeVar("Result")
Held = TypeVar("Held", TableLock, RotatingLock, HeldConnections)

APPLICATION = "pytest-resilience"
ANSWER_WITHIN = 10.0  # seconds for one statement of ours; clean state takes a few milliseconds

OTHERS = f"backend_type = 'client backend' and application_name <> '{APPLICATION}'"
# Each table with rows, and a hash of them; a baseline is small (migrations, look-up tables) or is restored the slow way.
ROWS = """
select coalesce(string_agg(format(
  'select %L::text as name, (select case when count(*) = 0 then null when count(*) > 10000 then ''many''
     else md5(string_agg(r::text, '','' order by r::text)) end from only %s r) as hash', c.oid::text, c.oid::regclass), ' union all '), '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.oid >= 16384 and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
"""

SEQUENCES = "select seqrelid::text, pg_sequence_last_value(seqrelid) from pg_sequence where seqrelid >= 16384"

# Sessions that would keep the next test from starting clean: those inside a transaction and those that hold advisory locks.
BLOCKERS = """
select pg_terminate_backend(pid) from pg_stat_activity a
where backend_type = 'client backend' and pid <> pg_backend_pid() and datname = current_database()
  and (xact_start is not null or exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory'))
"""

# What a session of ours is not to be hindered by: tests may set these for a database, a role or the whole server.
UNHINDERED = """
set default_transaction_read_only = off; set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
set idle_session_timeout = 0; set search_path = "$user", public; set role none; set standard_conforming_strings = on;
"""
NO_SUCH_DATABASE, NO_CONNECTIONS, IN_USE = "3D000", "55000", "2BP01"
LOCKED_OUT = ("28000", "28P01")  # a role without LOGIN, another password


# All of clean state in one round trip, with plans that are made once: ends sessions that are in the way, says which, tells databases,
# fingerprint and (of a server that is all ours) what the databases share. If nothing was in the way and the fingerprint is the expected
# one, it empties every table that has rows, unless its oid is in the list that is kept, and takes sequences back to their start. Large
# tables are truncated: dead rows would make each later look slower, since autovacuum is off. In our session's own temporary schema, so
# nobody else ever sees it.
def clean_function(*, whole: bool) -> str:
    """Return the statement that makes the function; `whole` says whether the server is all ours."""
    cluster = f"cluster := ({CLUSTER});" if whole else ""
    return f"""
create or replace function pg_temp.resilience_clean(expected text, kept text[],
  out ended boolean[], out databases text[], out fingerprint text, out cluster text)
language plpgsql set lock_timeout = '5s' as $$
declare item record; dirty boolean;
begin
  ended := array({BLOCKERS});
  databases := array(select datname from pg_database);
  fingerprint := ({fingerprint(whole=whole)});
  {cluster}
  if cardinality(ended) > 0 or fingerprint is distinct from expected then
    return;
  end if;
  for item in
    select c.oid, c.oid::regclass as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.oid >= 16384 and n.nspname not like 'pg\\_%' and not (c.oid::text = any (kept))
  loop
    if pg_relation_size(item.oid) > 1048576 then
      execute format('truncate only %s cascade', item.name);
    elsif pg_relation_size(item.oid) > 0 then
      execute format('select exists (select from only %s)', item.name) into dirty;
      if dirty then execute format('delete from only %s', item.name); end if;
    end if;
  end loop;
  for item in select s.seqrelid, s.seqstart from pg_sequence s where s.seqrelid >= 16384
    and not (s.seqrelid::text = any (kept)) and pg_sequence_last_value(s.seqrelid) is not null
  loop
    perform setval(item.seqrelid, item.seqstart, false);
  end loop;
end $$
"""  # noqa: S608  # put together from our own constants


# What the database has of its own, one row for each role that has settings in it.
OWN_SETTINGS = """
select pg_get_userbyid(datdba)::text as owner, datconnlimit as connections, datacl::text as acl,
       shobj_description(d.oid, 'pg_database') as comment, case setrole when 0 then '' else pg_get_userbyid(setrole)::text end as role,
       setconfig as settings
  from pg_database d left join pg_db_role_setting on setdatabase = d.oid where datname = current_database()
"""


class State(NamedTuple):
    """What the server says when it is asked to clean.

    Args:
        ended: one for each session that was in the way.
        databases: their names.
        fingerprint: of schema and settings of the database.
        cluster: of what the databases share; None of a server that others use.
    """

    ended: list[bool]
    databases: list[str]
    fingerprint: str | None
    cluster: str | None


class PostgresAdmin:
    """A superuser's connection to one database, and its baseline: what a clean state is.

    Args:
        server: the server; its URL names the database.
        template: name for the copy of the baseline that a changed schema is restored from.
    """

    def __init__(self, server: Server, *, template: str = "resilience_baseline") -> None:
        self.server = server
        self._template = template
        self._background: BackgroundLoop | None = None
        self._connection: Session | None = None
        self._cleaner: Session | None = None  # the session that has the function
        self._fingerprint_query = fingerprint(whole=server.exclusive)
        self._fingerprint: str | None = None
        self._rows: dict[str, str] = {}
        self._sequences: dict[str, int] = {}
        self._source = "template0"  # nobody can connect to it
        self._databases: set[str] = set()
        self._cluster: Cluster | None = None  # None of a server that others use
        self._cluster_number: str | None = None
        self._database = ""
        self._own_settings: list[Row] = []
        self._grips: list[TableLock | RotatingLock | HeldConnections] = []

    # -- running sessions from a synchronous control plane

    def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run a coroutine function on the background loop and return its result."""
        if self._background is None:
            self._background = BackgroundLoop("pytest-resilience-postgres")
        return self._background.run(work)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Future[Result]:
        """Start a coroutine on the background loop; the future cancels it."""
        assert self._background is not None, "spawn comes after run"
        return self._background.spawn(work)

    async def connect(self, database: str | None = None) -> Session:
        """A new connection of a superuser."""
        url = self.server.url(
            self.server.direct_address
        )  # as it is now: a container that starts again may be elsewhere
        return await connect(url, database=database, application_name=APPLICATION, within=ANSWER_WITHIN)

    async def session(self) -> Session:
        """The connection that is kept, made anew when the server was away."""
        if self._connection is None or self._connection.is_closed():
            connection = await self.connect()
            await connection.execute(UNHINDERED)
            self._connection = connection
        return self._connection

    async def _side(self) -> Session:
        """Return a session in another database."""
        try:
            side = await self.connect("postgres")
        except PostgresError as error:
            if error.code not in (NO_SUCH_DATABASE, NO_CONNECTIONS):
                raise
            side = await self.connect("template1")
        await side.execute(UNHINDERED)
        return side

    async def _drop_session(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await end(connection)

    async def _on_session(self, work: Callable[[Session], Awaitable[Result]]) -> Result:
        """Do something on the connection that is kept, and again on a new one when that has just been ended: a test may end all sessions.

        Nothing is known of such an end before the connection is used.
        """
        kept, session = self._connection, await self.session()
        try:
            return await work(session)
        except (ConnectionError, PostgresError) as error:
            if isinstance(error, PostgresError) and error.code not in TERMINATED:
                raise
            if kept is None or session is not kept:  # it was made for this: the server is away
                raise
            session.terminate()
            self._connection = None
        return await work(await self.session())

    async def _fetch(self, query: str, *arguments: object) -> list[Row]:
        return await self._on_session(lambda session: session.fetch(query, *arguments))

    def fetch(self, query: str, *arguments: object) -> list[Row]:
        """Ask the database something, around the proxy."""
        return self.run(lambda: self._fetch(query, *arguments))

    def fetch_soon(self, query: str) -> Future[list[Row]]:
        """Ask the database something while there is other work to do."""
        return self.spawn(lambda: self._fetch(query))

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The background loop; None while there is none."""
        return self._background.loop if self._background is not None else None

    def close(self) -> None:
        """Let go of everything and end the background loop."""
        for grip in list(self._grips):
            grip.release()
        if self._background is not None:
            self._background.run(self._drop_session)
            self._background.close()
            self._background = None

    def prepare(self, init: Init) -> None:
        """Run what makes the schema, before the baseline is taken.

        Args:
            init: SQL, files with SQL, or functions that are given the server's URL; one or several.
        """
        from pathlib import Path

        steps = [init] if isinstance(init, str | Path) or callable(init) else list(init)
        for step in steps:
            if callable(step):
                step(self.server.url(self.server.direct_address))
            else:
                self._script(step.read_text(encoding="utf-8") if isinstance(step, Path) else step, str(step))

    def _script(self, sql: str, name: str) -> None:
        async def work() -> None:
            try:
                await (await self.session()).execute(sql)
            except PostgresError as error:
                where = scrubbed(name.splitlines()[0])[:60]
                raise SetupError(f"the schema could not be made: {where!r}: {error}") from None

        self.run(work)

    # -- clean state

    def take_baseline(self) -> None:
        """Say that the database is now as every test shall find it. Nobody else may be connected to it."""
        self.run(self._take_baseline)

    async def _take_baseline(self) -> None:
        session = await self.session()
        self._fingerprint = await session.fetchval(self._fingerprint_query)
        self._rows = await self._hashes(session)
        self._sequences = await self._used_sequences(session)
        if await session.fetchval(HAS_OBJECTS):
            database = await session.fetchval("select current_database()")
            await self._drop_session()  # a database that is copied must have no sessions
            side = await self._side()
            try:
                await side.execute(f"drop database if exists {quoted(self._template)} with (force)")
                await _clone(side, self._template, database)
            finally:
                await end(side)
            self._source = self._template
        session = await self.session()
        self._database = await session.fetchval("select current_database()")
        self._databases = {row[0] for row in await session.fetch("select datname from pg_database")}
        self._own_settings = await session.fetch(OWN_SETTINGS)
        if self.server.exclusive:
            self._cluster = await Cluster.read(session)
            self._cluster_number = await session.fetchval(CLUSTER)

    @staticmethod
    async def _used_sequences(session: Session) -> dict[str, int]:
        return {row[0]: row[1] for row in await session.fetch(SEQUENCES) if row[1] is not None}

    @staticmethod
    async def _hashes(session: Session) -> dict[str, str]:
        query = await session.fetchval(ROWS)
        rows = await session.fetch(query) if query else []
        return {row["name"]: row["hash"] for row in rows if row["hash"] is not None}

    def clean(self, *, settings: bool = True) -> Future[None]:
        """Take the database back to its baseline: schema, rows, sequences, settings; open transactions and advisory locks of others end.

        Rows are deleted when that is enough; a changed schema or changed baseline rows cost a new copy of the template. On a server that
        is all ours, so are roles, other databases, and what ALTER SYSTEM has set, which may cost a new start.

        Args:
            settings: False leaves what all databases share as it is: a fault of the session has changed it.

        Returns:
            At once, what to wait for: there is other cleaning to do meanwhile.
        """
        assert self._fingerprint is not None, "take_baseline comes before clean"
        return self.spawn(lambda: self._clean(settings=settings))

    async def _clean(self, *, settings: bool) -> None:
        has_rows = bool(self._rows or self._sequences)  # those of the baseline are looked at before others are deleted
        try:
            state = await self._ask_to_clean(None if has_rows else self._fingerprint)
        except PostgresError as error:
            if error.code in LOCKED_OUT:
                raise SetupError(
                    f"an earlier test has locked the plugin out of Postgres, and ended its session: {error}"
                ) from error
            if error.code not in (NO_SUCH_DATABASE, NO_CONNECTIONS):
                raise
            state = State([], await self._known_databases(), None, None)
        if state.ended:
            await _until_gone(await self.session())
        shared = settings and self._cluster is not None and state.cluster != self._cluster_number
        if shared:
            if state.fingerprint is not None:  # else there is no database for our session
                await self._put_own_role_back()
            await self._free_databases()
        await self._put_databases_back(state.databases)
        if state.fingerprint != self._fingerprint or (
            has_rows and not await self._baseline_rows_stand(await self.session())
        ):
            await self._restore()
        elif state.ended or has_rows:
            await self._ask_to_clean(self._fingerprint)
        if shared:
            await self._put_cluster_back()

    async def _ask_to_clean(self, expected: str | None) -> State:
        return await self._on_session(lambda session: self._ask_session_to_clean(session, expected))

    async def _ask_session_to_clean(self, session: Session, expected: str | None) -> State:
        if self._cleaner is not session:
            # No triggers and foreign keys, for the whole session: a change of this setting throws all plans away.
            await session.execute(
                f"set session_replication_role = replica; {clean_function(whole=self.server.exclusive)}"
            )
            self._cleaner = session
        kept = [*self._rows, *self._sequences]
        return State(*await session.fetchrow("select * from pg_temp.resilience_clean($1, $2)", expected, kept))

    async def _baseline_rows_stand(self, session: Session) -> bool:
        if self._sequences:
            used = await self._used_sequences(session)
            if any(used.get(name) != last for name, last in self._sequences.items()):
                return False
        if not self._rows:
            return True
        now = await self._hashes(session)
        return all(hash_ != "many" and now.get(name) == hash_ for name, hash_ in self._rows.items())

    async def _restore(self) -> None:
        await self._drop_session()
        side = await self._side()
        try:
            await side.execute(f"drop database if exists {quoted(self._database)} with (force)")
            await _clone(side, self._database, self._source)
            for statement in self._own_statements():
                await side.execute(statement)
        finally:
            await end(side)
        # Object ids are the template's, so the fingerprint is too.
        if await (await self.session()).fetchval(self._fingerprint_query) != self._fingerprint:
            raise SetupError(
                f"the database {self._database!r} was restored and is not as it was at first; an earlier test has changed what its "
                f"copy depends on, such as {self._source!r} or a role"
            )

    def _own_statements(self) -> list[str]:
        """What the database had of its own and a copy does not have."""
        name, first = quoted(self._database), self._own_settings[0]
        statements = [f"alter database {name} owner to {quoted(first['owner'])}"]
        if first["connections"] != -1:
            statements.append(f"alter database {name} connection limit {first['connections']}")
        if first["comment"] is not None:
            statements.append(f"comment on database {name} is {literal(first['comment'])}")
        if first["acl"] is not None and self.server.exclusive:
            acl, own = literal(first["acl"]), literal(self._database)
            statements.append(f"update pg_database set datacl = {acl}::aclitem[] where datname = {own}")  # noqa: S608  # quoted
        for row in self._own_settings:
            statements += settings_of(self._database, row["role"] or "", row["settings"] or [])
        return statements

    async def _known_databases(self) -> list[str]:
        side = await self._side()
        try:
            return [row[0] for row in await side.fetch("select datname from pg_database")]
        finally:
            await end(side)

    async def _put_databases_back(self, databases: Sequence[str]) -> None:
        if not self.server.exclusive or set(databases) == self._databases:
            return
        side = await self._side()
        try:
            for extra in sorted(set(databases) - self._databases):
                await side.execute(f"alter database {quoted(extra)} is_template false")
                await side.execute(f"drop database if exists {quoted(extra)} with (force)")
            for missing in sorted(self._databases - set(databases) - {self._database, self._template}):
                await side.execute(f"create database {quoted(missing)} template template0")
        finally:
            await end(side)

    async def _put_own_role_back(self) -> None:
        """Let us in again: the session that is kept may do that, and it comes before all that needs another one."""
        assert self._cluster is not None, "asked of servers that are all ours"
        session = await self.session()
        now = await Cluster.read(session)
        own = await session.fetchval("select session_user::text")
        for statement in now.role_back_to(self._cluster, own):
            await session.execute(statement)

    async def _free_databases(self) -> None:
        """Remove what keeps a database from being dropped: replication slots, subscriptions and prepared transactions."""
        assert self._cluster is not None, "asked of servers that are all ours"
        side = await self._side()
        try:
            now = await Cluster.read(side)
            for name, _ in now.extra(self._cluster, "slot"):
                await side.fetch(
                    "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1", name
                )
                await side.fetch("select pg_drop_replication_slot($1::text::name)", name)
            for name, database in now.extra(self._cluster, "prepared"):
                await self._within(database, f"rollback prepared {literal(name)}")
            for name, database in now.extra(self._cluster, "subscription"):
                own = quoted(name)
                await self._within(
                    database,
                    f"alter subscription {own} disable",
                    f"alter subscription {own} set (slot_name = none)",
                    f"drop subscription {own}",
                )
        finally:
            await end(side)

    async def _within(self, database: str, *statements: str) -> None:
        """Do something in another database."""
        session = await self.connect(database)
        try:
            for statement in statements:
                await session.execute(statement)
        finally:
            await end(session)

    async def _put_cluster_back(self) -> None:
        """Take roles, settings and tablespaces back to the baseline.

        Raises:
            SetupError: they can't be.
        """
        assert self._cluster is not None, "asked of servers that are all ours"
        try:
            session = await self.session()
            now = await Cluster.read(session)
            for name, _ in now.extra(self._cluster, "tablespace"):
                await session.execute(f"drop tablespace {quoted(name)}")
            for role in now.extra_roles(self._cluster):
                await self._drop_role(session, role)
            for statement in now.back_to(self._cluster, self._databases):
                await session.execute(statement)
            if now.file != self._cluster.file:
                await self._put_file_back(session)
            session = await self.session()
            if await session.fetchval(CLUSTER) == self._cluster_number:
                return
            wrong: object = (await Cluster.read(session)).differs_in(self._cluster)
        except PostgresError as error:
            wrong = error
        raise SetupError(
            f"what an earlier test has changed in Postgres can't be put back (roles, settings of the server): {wrong}"
        )

    async def _drop_role(self, session: Session, role: str) -> None:
        try:
            await session.execute(f"drop role {quoted(role)}")
        except PostgresError as error:
            if error.code != IN_USE:
                raise
            for database in sorted(self._databases - {"template0", self._template}):
                await self._within(database, f"drop owned by {quoted(role)} cascade")
            await session.execute(f"drop role {quoted(role)}")

    async def _put_file_back(self, session: Session) -> None:
        """Undo ALTER SYSTEM; what counts from the next start on costs one if the server has been started with it."""
        assert self._cluster is not None, "asked of servers that are all ours"
        await session.execute("alter system reset all")
        for name, value in self._cluster.file.items():
            await session.execute(f"alter system set {assignment(name, value)}")
        before = await session.fetchval("select pg_conf_load_time()::text")
        await session.execute("select pg_reload_conf()")
        now = await self._after_reload(before)
        if now.at_start != self._cluster.at_start:
            await self._drop_session()
            await asyncio.to_thread(self.server.restart)

    async def _after_reload(self, before: str) -> Cluster:
        """Wait until the server has read its settings again; `before` is when it did so last."""

        async def reloaded() -> Cluster | None:
            probe = await self.connect()  # a reload reaches other sessions when they next look; a fresh one shows it
            try:
                if await probe.fetchval("select pg_conf_load_time()::text") == before:
                    return None
                return await Cluster.read(probe)
            finally:
                await end(probe)

        cluster = await wait_until_async(reloaded, within=ANSWER_WITHIN, every=0.002)
        if cluster is None:
            raise SetupError("the server does not read its settings again")
        return cluster

    # -- what faults hold

    def hold_locks(self, tables: Sequence[str], fault: str) -> TableLock:
        """Hold an ACCESS EXCLUSIVE lock on `tables` (none named: on all) until released.

        Args:
            tables: their names.
            fault: who asks, for messages.

        Raises:
            SetupError: there is no such table, or others keep theirs for longer than we wait.
        """
        return self._held(TableLock(self, tables, fault))

    def slow_down(self, tables: Sequence[str], seconds: float, fault: str) -> RotatingLock:
        """Let statements on `tables` (none named: on all) wait for up to `seconds`, again and again.

        Raises:
            SetupError: there is no such table.
        """
        return self._held(RotatingLock(self, tables, fault, seconds))

    def take_connections(self, left: int) -> HeldConnections:
        """Open connections until `left` are left, for superusers; others find fewer, since a few are reserved.

        Raises:
            SetupError: fewer than that are free already.
        """
        return self._held(HeldConnections(self, left))

    def _held(self, grip: Held) -> Held:
        self._grips.append(grip)
        try:
            self.run(grip.take)
            grip.watch()
        except BaseException:
            grip.release()
            raise
        return grip

    def count_sessions(self) -> int:
        """How many sessions of others there are."""
        query = f"select count(*) from pg_stat_activity where {OTHERS}"  # noqa: S608  # put together from our own constants
        return int(self.fetch(query)[0][0])

    def terminate_backends(self) -> int:
        """End all sessions of others; returns how many."""
        query = f"select pg_terminate_backend(pid) from pg_stat_activity where {OTHERS}"  # noqa: S608  # the same
        return len(self.fetch(query))

    def forbid_writes(self) -> Callable[[], None]:
        """Make transactions read-only by default, in sessions that exist too; returns what allows writes again."""
        self._alter_system("set default_transaction_read_only = on", "on")
        return lambda: self._alter_system("reset default_transaction_read_only", "off")

    def _alter_system(self, change: str, wanted: str) -> None:
        async def work() -> None:
            session = await self.session()
            await session.execute(f"alter system {change}")
            await session.execute("select pg_reload_conf()")
            if not await wait_until_async(taken_over, within=ANSWER_WITHIN, every=0.005):
                raise SetupError(f"the server has not taken over {change!r}")

        async def taken_over() -> bool:
            probe = await self.connect()  # a reload reaches other sessions when they next look; a fresh one shows it
            try:
                return bool(await probe.fetchval("show default_transaction_read_only") == wanted)
            finally:
                await end(probe)

        self.run(work)

    def crash_backend(self) -> None:
        """Kill one session's process; returns when the server has recovered from that."""

        async def work() -> None:
            victim, witness = await self.connect(), await self.connect()
            pid = victim.get_server_pid()
            self.server.kill_session(pid)
            victim.terminate()
            await asyncio.wait_for(witness.wait_closed(), ANSWER_WITHIN)
            await self._drop_session()
            give_up = SYSTEM.now() + ANSWER_WITHIN
            while True:
                try:
                    await self.session()
                    return
                except (OSError, PostgresError):  # 57P03: it recovers
                    if SYSTEM.now() > give_up:
                        raise
                    await asyncio.sleep(0.005)

        self.run(work)

    def released(self, grip: TableLock | RotatingLock | HeldConnections) -> None:
        """A grip has let go."""
        if grip in self._grips:
            self._grips.remove(grip)


async def _clone(side: Session, new: str, old: str) -> None:
    await side.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()", old
    )
    await side.execute(f"create database {quoted(new)} template {quoted(old)} strategy file_copy")


async def _until_gone(session: Session) -> None:
    """Wait until sessions that were told to end have ended: until then they keep their locks."""
    query = BLOCKERS.replace("pg_terminate_backend(pid)", "pid")

    async def gone() -> bool:
        return not await session.fetch(query)

    if not await wait_until_async(gone, within=ANSWER_WITHIN, every=0.002):
        raise SetupError("sessions of an earlier test that were told to end have not ended; they keep their locks")
