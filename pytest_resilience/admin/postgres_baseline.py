"""The baseline of a Postgres database, which is the state that each test begins with.

The usual restore is one round trip: a function in the session's temporary schema compares the schema with the baseline and deletes rows.
Everything else costs more and is done only for what a test has changed: a changed schema costs a new copy of the template, a changed
setting may cost a restart of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ..clients.postgres import PostgresError, Row, Session
from ..clock import wait_until_async
from ..errors import SetupError
from .postgres_catalog import CLUSTER, HAS_OBJECTS, Cluster, assignment, fingerprint, literal, quoted, settings_of
from .postgres_session import NO_CONNECTIONS, NO_SUCH_DATABASE, STATEMENT_TIMEOUT, AdminSession, close_quietly

ROLE_IN_USE = "2BP01"
LOCKED_OUT = ("28000", "28P01")  # a role without LOGIN, a changed password

# A query that returns each table with rows, and a hash of them. A baseline is small (migrations, look-up tables), or its restore is slow.
ROWS = """
select coalesce(string_agg(format(
  'select %L::text as name, (select case when count(*) = 0 then null when count(*) > 10000 then ''many''
     else md5(string_agg(r::text, '','' order by r::text)) end from only %s r) as hash', c.oid::text, c.oid::regclass), ' union all '), '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.oid >= 16384 and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
"""

SEQUENCES = "select seqrelid::text, pg_sequence_last_value(seqrelid) from pg_sequence where seqrelid >= 16384"
DATABASES = "select datname from pg_database"

# Sessions that would disturb the next test: those inside a transaction and those that hold advisory locks.
BLOCKERS = """
select pg_terminate_backend(pid) from pg_stat_activity a
where backend_type = 'client backend' and pid <> pg_backend_pid() and datname = current_database()
  and (xact_start is not null or exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory'))
"""


def clean_function(*, exclusive: bool) -> str:
    """Return the statement that creates the function which cleans the database in one round trip, with plans that are made once.

    The function terminates blocking sessions. It returns one value for each of them, the names of the databases, the fingerprint of this
    one and (of an exclusive server) of what the databases share. If there was no such session and the fingerprint is the expected one,
    it empties each table with rows, except those with an oid in the list `kept`, and restarts sequences. Large tables are truncated,
    because dead rows would make each later scan slower while autovacuum is off. Other sessions can't see a function of a temporary
    schema.

    Args:
        exclusive: True if no other session uses the server.
    """
    cluster = f"cluster := ({CLUSTER});" if exclusive else ""
    return f"""
create or replace function pg_temp.resilience_clean(expected text, kept text[],
  out ended boolean[], out databases text[], out fingerprint text, out cluster text)
language plpgsql set lock_timeout = '5s' as $$
declare item record; dirty boolean;
begin
  ended := array({BLOCKERS});
  databases := array({DATABASES});
  fingerprint := ({fingerprint(exclusive=exclusive)});
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
"""  # noqa: S608  # built from constants


# Properties of the database itself, one row for each role that has settings in it.
DATABASE_PROPERTIES = """
select pg_get_userbyid(datdba)::text as owner, datconnlimit as connections, datacl::text as acl,
       shobj_description(d.oid, 'pg_database') as comment, case setrole when 0 then '' else pg_get_userbyid(setrole)::text end as role,
       setconfig as settings
  from pg_database d left join pg_db_role_setting on setdatabase = d.oid where datname = current_database()
"""


class CleanResult(NamedTuple):
    """The result of the function that cleans.

    Args:
        ended: one value for each session that was terminated.
        databases: the names of the databases.
        fingerprint: of the schema and settings of the database; None if the database is gone.
        cluster: of what the databases share; None for a server that is not exclusive.
    """

    ended: list[bool]
    databases: list[str]
    fingerprint: str | None
    cluster: str | None


class PostgresBaseline:
    """The baseline of one database, and of an exclusive server also what its databases share.

    Args:
        session: a superuser's session in the database.
        template: name for the copy from which a changed schema is restored.
    """

    def __init__(self, session: AdminSession, template: str) -> None:
        self._admin = session
        self._exclusive = session.server.exclusive
        self._template = template
        self._prepared: Session | None = None  # the session that has the function
        self._fingerprint_query = fingerprint(exclusive=self._exclusive)
        self._fingerprint: str | None = None
        self._rows: dict[str, str] = {}
        self._sequences: dict[str, int] = {}
        self._source = "template0"  # accepts no connections, so it can always be copied
        self._databases: set[str] = set()
        self._cluster: Cluster | None = None  # None for a server that is not exclusive
        self._cluster_fingerprint: str | None = None
        self._database = ""
        self._properties: list[Row] = []

    async def take(self) -> None:
        """Take the present state as the baseline. No client may be connected to the database."""
        session = await self._admin.session()
        self._fingerprint = await session.fetchval(self._fingerprint_query)
        self._rows = await _row_hashes(session)
        self._sequences = await _used_sequences(session)
        if await session.fetchval(HAS_OBJECTS):
            database = await session.fetchval("select current_database()")
            await self._admin.close_session()  # a database that is copied must have no sessions
            maintenance = await self._admin.maintenance_session()
            try:
                await maintenance.execute(f"drop database if exists {quoted(self._template)} with (force)")
                await _clone(maintenance, self._template, database)
            finally:
                await close_quietly(maintenance)
            self._source = self._template
        session = await self._admin.session()
        self._database = await session.fetchval("select current_database()")
        self._databases = {row[0] for row in await session.fetch(DATABASES)}
        self._properties = await session.fetch(DATABASE_PROPERTIES)
        if self._exclusive:
            self._cluster = await Cluster.read(session)
            self._cluster_fingerprint = await session.fetchval(CLUSTER)

    async def restore(self, *, settings: bool) -> None:
        """Restore schema, rows, sequences and settings. Terminate sessions with open transactions or advisory locks.

        Rows are deleted if that is enough. A changed schema or changed rows of the baseline cost a new copy of the template. On an
        exclusive server, roles, other databases and ALTER SYSTEM are undone too, which may cost a restart.

        Args:
            settings: False to keep what all databases share, because a fault of the session has changed it.

        Raises:
            SetupError: something can't be restored; names it.
        """
        assert self._fingerprint is not None, "take comes before restore"
        # Rows of the baseline are compared before other rows are deleted.
        result = await self._inspect(None if self._has_rows() else self._fingerprint)
        if result.ended:
            await _wait_until_gone(await self._admin.session())
        is_cluster_changed = settings and self._cluster is not None and result.cluster != self._cluster_fingerprint
        if is_cluster_changed:
            if result.fingerprint is not None:  # without the database there is no session
                await self._restore_own_role()
            await self._drop_obstacles()
        await self._restore_other_databases(result.databases)
        await self._restore_schema_and_rows(result)
        if is_cluster_changed:
            await self._restore_cluster()

    def _has_rows(self) -> bool:
        """True if the baseline has rows or used sequences."""
        return bool(self._rows or self._sequences)

    async def _restore_schema_and_rows(self, result: CleanResult) -> None:
        is_intact = result.fingerprint == self._fingerprint
        if is_intact and self._has_rows():
            is_intact = await self._baseline_rows_unchanged(await self._admin.session())
        if not is_intact:
            await self._restore_database()
        elif self._has_rows() or result.ended:
            await self._run_clean(self._fingerprint)

    async def _inspect(self, expected: str | None) -> CleanResult:
        """Run the function that cleans, or return an empty result if the database is gone."""
        try:
            return await self._run_clean(expected)
        except PostgresError as error:
            if error.code in LOCKED_OUT:
                raise SetupError(
                    f"an earlier test has locked the plugin out of Postgres, and ended its session: {error}"
                ) from error
            if error.code not in (NO_SUCH_DATABASE, NO_CONNECTIONS):
                raise
        return CleanResult([], await self._list_databases(), None, None)

    async def _run_clean(self, expected: str | None) -> CleanResult:
        return await self._admin.on_session(lambda session: self._run_clean_on(session, expected))

    async def _run_clean_on(self, session: Session, expected: str | None) -> CleanResult:
        if self._prepared is not session:
            # Disable triggers and foreign keys for the whole session: a change of this setting discards all plans.
            await session.execute(
                f"set session_replication_role = replica; {clean_function(exclusive=self._exclusive)}"
            )
            self._prepared = session
        kept = [*self._rows, *self._sequences]
        return CleanResult(*await session.fetchrow("select * from pg_temp.resilience_clean($1, $2)", expected, kept))

    async def _baseline_rows_unchanged(self, session: Session) -> bool:
        if self._sequences:
            used = await _used_sequences(session)
            if any(used.get(name) != last for name, last in self._sequences.items()):
                return False
        if not self._rows:
            return True
        now = await _row_hashes(session)
        return all(hash_ != "many" and now.get(name) == hash_ for name, hash_ in self._rows.items())

    async def _restore_database(self) -> None:
        await self._admin.close_session()
        maintenance = await self._admin.maintenance_session()
        try:
            await maintenance.execute(f"drop database if exists {quoted(self._database)} with (force)")
            await _clone(maintenance, self._database, self._source)
            for statement in self._property_statements():
                await maintenance.execute(statement)
        finally:
            await close_quietly(maintenance)
        # A copy has the object ids of its template, so it has the fingerprint too.
        if await (await self._admin.session()).fetchval(self._fingerprint_query) != self._fingerprint:
            raise SetupError(
                f"the database {self._database!r} was restored and still differs from its baseline; an earlier test has changed what its "
                f"copy depends on, such as {self._source!r} or a role"
            )

    def _property_statements(self) -> list[str]:
        """Return the statements that restore the properties of the database, which a copy does not have."""
        name, first = quoted(self._database), self._properties[0]
        statements = [f"alter database {name} owner to {quoted(first['owner'])}"]
        if first["connections"] != -1:
            statements.append(f"alter database {name} connection limit {first['connections']}")
        if first["comment"] is not None:
            statements.append(f"comment on database {name} is {literal(first['comment'])}")
        if first["acl"] is not None and self._exclusive:
            acl, own = literal(first["acl"]), literal(self._database)
            statements.append(f"update pg_database set datacl = {acl}::aclitem[] where datname = {own}")  # noqa: S608  # quoted
        for row in self._properties:
            statements += settings_of(self._database, row["role"] or "", row["settings"] or [])
        return statements

    async def _list_databases(self) -> list[str]:
        maintenance = await self._admin.maintenance_session()
        try:
            return [row[0] for row in await maintenance.fetch(DATABASES)]
        finally:
            await close_quietly(maintenance)

    async def _restore_other_databases(self, databases: Sequence[str]) -> None:
        if not self._exclusive or set(databases) == self._databases:
            return
        maintenance = await self._admin.maintenance_session()
        try:
            for extra in sorted(set(databases) - self._databases):
                await maintenance.execute(f"alter database {quoted(extra)} is_template false")
                await maintenance.execute(f"drop database if exists {quoted(extra)} with (force)")
            for missing in sorted(self._databases - set(databases) - {self._database, self._template}):
                await maintenance.execute(f"create database {quoted(missing)} template template0")
        finally:
            await close_quietly(maintenance)

    async def _restore_own_role(self) -> None:
        """Restore the role of the session, which can do that although a new session may be refused."""
        assert self._cluster is not None, "called for exclusive servers only"
        session = await self._admin.session()
        now = await Cluster.read(session)
        own = await session.fetchval("select session_user::text")
        for statement in now.role_back_to(self._cluster, own):
            await session.execute(statement)

    async def _drop_obstacles(self) -> None:
        """Remove the replication slots, subscriptions and prepared transactions that keep a database from being dropped."""
        assert self._cluster is not None, "called for exclusive servers only"
        maintenance = await self._admin.maintenance_session()
        try:
            now = await Cluster.read(maintenance)
            for name, _ in now.extra(self._cluster, "slot"):
                await maintenance.fetch(
                    "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = $1", name
                )
                await maintenance.fetch("select pg_drop_replication_slot($1::text::name)", name)
            for name, database in now.extra(self._cluster, "prepared"):
                await self._admin.execute_in(database, f"rollback prepared {literal(name)}")
            for name, database in now.extra(self._cluster, "subscription"):
                subscription = quoted(name)
                await self._admin.execute_in(
                    database,
                    f"alter subscription {subscription} disable",
                    f"alter subscription {subscription} set (slot_name = none)",
                    f"drop subscription {subscription}",
                )
        finally:
            await close_quietly(maintenance)

    async def _restore_cluster(self) -> None:
        """Restore roles, settings and tablespaces.

        Raises:
            SetupError: something can't be restored; names it.
        """
        assert self._cluster is not None, "called for exclusive servers only"
        try:
            session = await self._admin.session()
            now = await Cluster.read(session)
            for name, _ in now.extra(self._cluster, "tablespace"):
                await session.execute(f"drop tablespace {quoted(name)}")
            for role in now.extra_roles(self._cluster):
                await self._drop_role(session, role)
            for statement in now.back_to(self._cluster, self._databases):
                await session.execute(statement)
            if now.file != self._cluster.file:
                await self._restore_config_file(session)
            session = await self._admin.session()
            if await session.fetchval(CLUSTER) == self._cluster_fingerprint:
                return
            problem: object = (await Cluster.read(session)).differences(self._cluster)
        except PostgresError as error:
            problem = error
        raise SetupError(
            f"changes of an earlier test to Postgres (roles, settings of the server) can't be restored: {problem}"
        )

    async def _drop_role(self, session: Session, role: str) -> None:
        try:
            await session.execute(f"drop role {quoted(role)}")
        except PostgresError as error:
            if error.code != ROLE_IN_USE:
                raise
            for database in sorted(self._databases - {"template0", self._template}):
                await self._admin.execute_in(database, f"drop owned by {quoted(role)} cascade")
            await session.execute(f"drop role {quoted(role)}")

    async def _restore_config_file(self, session: Session) -> None:
        """Undo ALTER SYSTEM. Restart the server if it was started with a changed setting that only a start applies."""
        assert self._cluster is not None, "called for exclusive servers only"
        await session.execute("alter system reset all")
        for name, value in self._cluster.file.items():
            await session.execute(f"alter system set {assignment(name, value)}")
        before = await session.fetchval("select pg_conf_load_time()::text")
        await session.execute("select pg_reload_conf()")
        now = await self._read_after_reload(before)
        if now.at_start != self._cluster.at_start:
            await self._admin.close_session()
            await asyncio.to_thread(self._admin.server.restart)

    async def _read_after_reload(self, before: str) -> Cluster:
        """Wait until the server has loaded its settings after `before`, the time of the last load, and return them."""

        async def read() -> Cluster | None:
            probe = (
                await self._admin.connect()
            )  # an existing session applies a reload at its next statement, a new one at once
            try:
                if await probe.fetchval("select pg_conf_load_time()::text") == before:
                    return None
                return await Cluster.read(probe)
            finally:
                await close_quietly(probe)

        cluster = await wait_until_async(read, within=STATEMENT_TIMEOUT, every=0.002)
        if cluster is None:
            raise SetupError(f"the server has not reloaded its settings within {STATEMENT_TIMEOUT:g} s")
        return cluster


async def _used_sequences(session: Session) -> dict[str, int]:
    return {row[0]: row[1] for row in await session.fetch(SEQUENCES) if row[1] is not None}


async def _row_hashes(session: Session) -> dict[str, str]:
    query = await session.fetchval(ROWS)
    rows = await session.fetch(query) if query else []
    return {row["name"]: row["hash"] for row in rows if row["hash"] is not None}


async def _clone(maintenance: Session, new: str, old: str) -> None:
    await maintenance.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()", old
    )
    await maintenance.execute(f"create database {quoted(new)} template {quoted(old)} strategy file_copy")


async def _wait_until_gone(session: Session) -> None:
    """Wait until terminated sessions have ended. They keep their locks until then."""
    query = BLOCKERS.replace("pg_terminate_backend(pid)", "pid")

    async def is_gone() -> bool:
        return not await session.fetch(query)

    if not await wait_until_async(is_gone, within=STATEMENT_TIMEOUT, every=0.002):
        raise SetupError(
            f"sessions of an earlier test have not ended {STATEMENT_TIMEOUT:g} s after they were terminated; they keep their locks"
        )
