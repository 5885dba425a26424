"""The sessions of a Postgres and the advisory locks that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..wire.sql_text import without_literals
from .compare import UNNAMED, Resource

MAX_PIDS_OUT_OF_ORDER = 1000  # by which the process of the oldest session may not have the lowest id

QUERY = """
with held as (
  select pid, array_agg(array[classid::bigint, objid::bigint, objsubid::bigint] order by classid, objid) as locks
    from pg_locks where locktype = 'advisory' and granted group by pid)
select pid, backend_start::text as since, application_name as name, host(client_addr) as host, client_port as port, state,
       left(query, 1000) as query, locks
  from pg_stat_activity left join held using (pid) where backend_type = 'client backend'
"""


class SessionRow(NamedTuple):
    """One row of pg_stat_activity."""

    pid: int
    since: str
    name: str
    host: str
    port: int | None
    state: str
    query: str
    locks: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> SessionRow:
        """Return the session of a row of the query."""
        locks = tuple(lock_name(*lock) for lock in row["locks"] or ())
        name, state, query = row["name"] or UNNAMED, row["state"] or "", row["query"] or ""
        return cls(row["pid"], row["since"], name, row["host"] or "", row["port"], state, query, locks)

    def describe(self) -> str:
        """Return the state and the last query, without its literals."""
        state = f"a session, {self.state}" if self.state else "a session"
        query = without_literals(self.query)
        return f"{state}, last query: {query}" if query else state


def client_endpoints(sessions: Iterable[SessionRow]) -> list[tuple[str, int | None]]:
    """Return address and port of the clients, in the order of connecting.

    Each session is a process, so this is the order of the process ids, which begin again after the largest. The start times are
    taken a little later, and may be in another order.
    """
    in_time = sorted(sessions, key=lambda session: session.since)
    first = in_time[0].pid - MAX_PIDS_OUT_OF_ORDER if in_time else 0
    in_order = sorted(in_time, key=lambda session: (session.pid < first, session.pid))
    return [(session.host, session.port) for session in in_order]


def resources(sessions: Iterable[SessionRow], server: str) -> list[Resource]:
    """Return the sessions of a server, and the locks that they hold."""
    found = []
    for session in sessions:
        key = server, session.pid, session.since
        found.append(Resource("postgres", session.name, key, session, server))
        found += [Resource("lock", lock, (*key, lock), session, server) for lock in session.locks]
    return found


def lock_name(high: int, low: int, kind: int) -> str:
    """Return the arguments with which an advisory lock was taken, which are one number of 64 bits, or two of 32 (kind 2)."""
    if kind == 1:
        return str(_signed(high << 32 | low, 64))
    return f"{_signed(high, 32)},{_signed(low, 32)}"


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >= 1 << bits - 1 else number
