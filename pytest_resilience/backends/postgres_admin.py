"""The superuser's door to Postgres, around the proxy: clean state between tests, locks and connections held by faults.

The sessions run on a loop of their own in one background thread, because the control plane is synchronous and a test may have a
running loop in its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ..clients.postgres import TERMINATED, PostgresError, Row, Session, connect
from ..clock import SYSTEM
from ..errors import SetupError
from ..redaction import scrubbed
from .backend import Server
from .background import BackgroundLoop
from .postgres_grips import ConnectionGrip, LockGrip, SlowGrip, end

if TYPE_CHECKING:
    from pathlib import Path

Step: TypeAlias = "str | Path | Callable[[str], object]"
Init: TypeAlias = "Step | Sequence[Step]"
Result = TypeVar("Result")
Held = TypeVar("Held", LockGrip, SlowGrip, ConnectionGrip)

APPLICATION = "pytest-resilience"
ANSWER_WITHIN = 10.0  # seconds for one statement of ours; clean state takes a few milliseconds

OTHERS = f"backend_type = 'client backend' and application_name <> '{APPLICATION}'"
# What a schema consists of, as one number: changes with every object made, altered or dropped, not with rows, TRUNCATE or ANALYZE.
FINGERPRINT = """
select md5(concat_ws('|',
  (select string_agg(concat_ws(',', oid, relname, relnamespace, relkind, relhastriggers, relrowsecurity), ';' order by oid)
     from pg_class where oid >= 16384 and relnamespace not in (select oid from pg_namespace where nspname like 'pg\\_%')),
  (select string_agg(concat_ws(',', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, atthasdef, attidentity), ';'
     order by attrelid, attnum) from pg_attribute
     where attrelid >= 16384 and attnum > 0 and attrelid in (select oid from pg_class where relkind in ('r', 'p', 'v', 'm', 'f', 'c'))),
  (select string_agg(concat_ws(',', oid, adbin), ';' order by oid) from pg_attrdef),
  (select string_agg(concat_ws(',', oid, conname, contype, convalidated), ';' order by oid) from pg_constraint where oid >= 16384),
  (select string_agg(concat_ws(',', oid, proname, md5(prosrc)), ';' order by oid) from pg_proc
     where oid >= 16384 and pronamespace not in (select oid from pg_namespace where nspname like 'pg\\_%')),
  (select string_agg(concat_ws(',', oid, typname), ';' order by oid) from pg_type where oid >= 16384 and typtype <> 'c'),
  (select string_agg(concat_ws(',', enumtypid, enumlabel), ';' order by oid) from pg_enum),
  (select string_agg(concat_ws(',', oid, tgname, tgenabled), ';' order by oid) from pg_trigger where not tgisinternal),
  (select string_agg(concat_ws(',', oid, nspname), ';' order by oid) from pg_namespace where oid >= 16384 and nspname not like 'pg\\_%'),
  (select string_agg(concat_ws(',', oid, extname, extversion), ';' order by oid) from pg_extension)
))
"""

# Each table with rows, and a hash of them; a baseline is small (migrations, look-up tables) or is restored the slow way.
ROWS = """
select coalesce(string_agg(format(
  'select %L::text as name, (select case when count(*) = 0 then null when count(*) > 10000 then ''many''
     else md5(string_agg(r::text, '','' order by r::text)) end from only %s r) as hash', c.oid::text, c.oid::regclass), ' union all '), '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.oid >= 16384 and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
"""

SEQUENCES = "select seqrelid::text, pg_sequence_last_value(seqrelid) from pg_sequence where seqrelid >= 16384"

HAS_OBJECTS = """
select exists (select from pg_class where oid >= 16384)
    or exists (select from pg_proc where oid >= 16384 and pronamespace not in (select oid from pg_namespace where nspname like 'pg\\_%'))
    or exists (select from pg_type where oid >= 16384) or exists (select from pg_namespace where oid >= 16384)
    or exists (select from pg_extension where oid >= 16384)
"""

# Sessions that would keep the next test from starting clean: those inside a transaction and those that hold advisory locks.
BLOCKERS = """
select pg_terminate_backend(pid) from pg_stat_activity a
where backend_type = 'client backend' and pid <> pg_backend_pid() and datname = current_database()
  and (xact_start is not null or exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory'))
"""

# All of clean state in one round trip, with plans that are made once: ends sessions that are in the way, says which, tells databases
# and fingerprint, and if nothing was in the way and the fingerprint is the expected one, empties every table that has rows, unless its
# oid is in the list that is kept, and takes sequences back to their start. Large tables are truncated: dead rows would make each later
# look slower, since autovacuum is off. In our session's own temporary schema, so nobody else ever sees it.
CLEAN = f"""
create or replace function pg_temp.resilience_clean(expected text, kept text[],
  out ended boolean[], out databases text[], out fingerprint text)
language plpgsql set lock_timeout = '5s' as $$
declare item record; dirty boolean;
begin
  ended := array({BLOCKERS});
  databases := array(select datname from pg_database);
  fingerprint := ({FINGERPRINT});
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
        self._fingerprint: str | None = None
        self._rows: dict[str, str] = {}
        self._sequences: dict[str, int] = {}
        self._source = "template1"
        self._databases: set[str] = set()
        self._grips: list[LockGrip | SlowGrip | ConnectionGrip] = []

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
        url = self.server.url(self.server.direct)  # as it is now: a container that starts again may be elsewhere
        return await connect(url, database=database, application_name=APPLICATION, within=ANSWER_WITHIN)

    async def session(self) -> Session:
        """The connection that is kept, made anew when the server was away."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self.connect()
        return self._connection

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
                step(self.server.url(self.server.direct))
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
        self._fingerprint = await session.fetchval(FINGERPRINT)
        self._rows = await self._hashes(session)
        self._sequences = await self._used_sequences(session)
        if await session.fetchval(HAS_OBJECTS):
            database = await session.fetchval("select current_database()")
            await self._drop_session()  # a database that is copied must have no sessions
            side = await self.connect("postgres")
            try:
                await side.execute(f"drop database if exists {_quoted(self._template)} with (force)")
                await _clone(side, self._template, database)
            finally:
                await end(side)
            self._source = self._template
        self._databases = {row[0] for row in await (await self.session()).fetch("select datname from pg_database")}

    @staticmethod
    async def _used_sequences(session: Session) -> dict[str, int]:
        return {row[0]: row[1] for row in await session.fetch(SEQUENCES) if row[1] is not None}

    @staticmethod
    async def _hashes(session: Session) -> dict[str, str]:
        query = await session.fetchval(ROWS)
        rows = await session.fetch(query) if query else []
        return {row["name"]: row["hash"] for row in rows if row["hash"] is not None}

    def clean(self) -> Future[None]:
        """Take the database back to its baseline: schema, rows, sequences; open transactions and advisory locks of others end.

        Rows are deleted when that is enough; a changed schema or changed baseline rows cost a new copy of the template.

        Returns:
            At once, what to wait for: there is other cleaning to do meanwhile.
        """
        assert self._fingerprint is not None, "take_baseline comes before clean"
        return self.spawn(self._clean)

    async def _clean(self) -> None:
        has_rows = bool(self._rows or self._sequences)  # those of the baseline are looked at before others are deleted
        ended, databases, fingerprint = await self._ask_to_clean(None if has_rows else self._fingerprint)
        if ended:
            await _until_gone(await self.session())
        for extra in sorted(set(databases) - self._databases) if self.server.whole else ():
            await (await self.session()).execute(f"drop database if exists {_quoted(extra)} with (force)")
        if fingerprint != self._fingerprint or (has_rows and not await self._baseline_rows_stand(await self.session())):
            await self._restore()
        elif ended or has_rows:
            await self._ask_to_clean(self._fingerprint)

    async def _ask_to_clean(self, expected: str | None) -> tuple[list[bool], list[str], str]:
        return await self._on_session(lambda session: self._ask_session_to_clean(session, expected))

    async def _ask_session_to_clean(self, session: Session, expected: str | None) -> tuple[list[bool], list[str], str]:
        if self._cleaner is not session:
            # No triggers and foreign keys, for the whole session: a change of this setting throws all plans away.
            await session.execute(f"set session_replication_role = replica; {CLEAN}")
            self._cleaner = session
        kept = [*self._rows, *self._sequences]
        ended, databases, fingerprint = await session.fetchrow(
            "select * from pg_temp.resilience_clean($1, $2)", expected, kept
        )
        return ended, databases, fingerprint

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
        database = await (await self.session()).fetchval("select current_database()")
        await self._drop_session()
        side = await self.connect("postgres")
        try:
            await side.execute(f"drop database if exists {_quoted(database)} with (force)")
            await _clone(side, database, self._source)
        finally:
            await end(side)
        # Object ids are the template's, so the fingerprint is too.
        assert await (await self.session()).fetchval(FINGERPRINT) == self._fingerprint

    # -- what faults hold

    def hold_locks(self, tables: Sequence[str], fault: str) -> LockGrip:
        """Hold an ACCESS EXCLUSIVE lock on `tables` (none named: on all) until released.

        Args:
            tables: their names.
            fault: who asks, for messages.

        Raises:
            SetupError: there is no such table, or others keep theirs for longer than we wait.
        """
        return self._held(LockGrip(self, tables, fault))

    def slow_down(self, tables: Sequence[str], seconds: float, fault: str) -> SlowGrip:
        """Let statements on `tables` (none named: on all) wait for up to `seconds`, again and again.

        Raises:
            SetupError: there is no such table.
        """
        return self._held(SlowGrip(self, tables, fault, seconds))

    def take_connections(self, left: int) -> ConnectionGrip:
        """Open connections until `left` are left, for superusers; others find fewer, since a few are reserved.

        Raises:
            SetupError: fewer than that are free already.
        """
        return self._held(ConnectionGrip(self, left))

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
        self._set_for_all("default_transaction_read_only = on")
        return lambda: self._set_for_all("default_transaction_read_only = off")

    def _set_for_all(self, setting: str) -> None:
        async def work() -> None:
            session = await self.session()
            await session.execute("set default_transaction_read_only = off")  # ours is never bound by it
            await session.execute(f"alter system set {setting}")
            await session.execute("select pg_reload_conf()")
            # A reload reaches other sessions when they next look; a fresh one shows that the server has read it.
            wanted = setting.rsplit(maxsplit=1)[-1]
            give_up = SYSTEM.now() + ANSWER_WITHIN
            while True:
                probe = await self.connect()
                try:
                    if await probe.fetchval("show default_transaction_read_only") == wanted:
                        return
                finally:
                    await end(probe)
                if SYSTEM.now() > give_up:
                    raise SetupError(f"the server has not taken over {setting!r}")
                await asyncio.sleep(0.005)

        self.run(work)

    def crash_backend(self) -> None:
        """Kill one session's process; returns when the server has recovered from that."""

        async def work() -> None:
            victim, witness = await self.connect(), await self.connect()
            pid = victim.get_server_pid()
            self.server.kill_session(pid)
            victim.terminate()
            await asyncio.wait_for(witness.until_ended(), ANSWER_WITHIN)
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

    def released(self, grip: LockGrip | SlowGrip | ConnectionGrip) -> None:
        """A grip has let go."""
        if grip in self._grips:
            self._grips.remove(grip)


async def _clone(side: Session, new: str, old: str) -> None:
    await side.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()", old
    )
    await side.execute(f"create database {_quoted(new)} template {_quoted(old)} strategy file_copy")


async def _until_gone(session: Session) -> None:
    """Wait until sessions that were told to end have ended: until then they keep their locks."""
    query = BLOCKERS.replace("pg_terminate_backend(pid)", "pid")
    give_up = SYSTEM.now() + ANSWER_WITHIN
    while await session.fetch(query):
        if SYSTEM.now() > give_up:
            raise SetupError("sessions of an earlier test that were told to end have not ended; they keep their locks")
        await asyncio.sleep(0.002)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
