"""Faults inside Postgres: connections and locks that others hold, sessions that end, writes that are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import SetupError
from .fault import Fault, FaultTarget, Hold, Receipt, Strike, at_least, strike_hold


class PostgresControl(Protocol):
    """The superuser's door to the server, around the proxy."""

    def terminate_backends(self) -> int:
        """End all sessions of others; returns how many."""

    def crash_backend(self) -> None:
        """Kill one session's process; returns when the server has recovered from that."""

    def forbid_writes(self) -> Callable[[], None]:
        """Make transactions read-only by default; returns what allows writes again."""

    def count_sessions(self) -> int:
        """How many sessions of others there are."""

    def hold_locks(self, tables: Sequence[str], fault: str) -> Hold:
        """Hold an ACCESS EXCLUSIVE lock on tables, all of them when none is named."""

    def slow_down(self, tables: Sequence[str], seconds: float, fault: str) -> Hold:
        """Let statements on tables, all of them when none is named, wait for up to so many seconds."""

    def take_connections(self, left: int) -> Hold:
        """Open connections until `left` are left for others."""


class HasPostgres(FaultTarget, Protocol):
    """A Postgres with a door for superusers."""

    @property
    def admin(self) -> PostgresControl: ...


@dataclass(frozen=True)
class Starve(Fault):
    """Starve the pool of connections; say one of the two.

    Args:
        connections: take the server's connections until this many are left, so that new ones are refused with 53300.
        lock: hold a lock on this table, so that the service's own connections pile up behind it.
    """

    name: ClassVar[str] = "starve"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    connections: int | None = None
    lock: str | None = None

    def __post_init__(self) -> None:
        if (self.connections is None) == (self.lock is None):
            raise SetupError("starve() needs either connections=N (so many are left) or lock='table', and not both")
        if self.connections is not None:
            at_least("connections", self.connections, 0, "connections that are left")

    def strike(self, target: HasPostgres) -> Strike:
        if self.lock is not None:
            hold = target.admin.hold_locks([self.lock], f"starve(lock={self.lock!r})")
        else:
            assert self.connections is not None
            hold = target.admin.take_connections(self.connections)
        return strike_hold(self, target, hold)


@dataclass(frozen=True)
class TakeConnections(Fault):
    """Take the server's connections until few are left, so that new ones are refused (53300); those that exist don't notice.

    Args:
        left: how many are left; Postgres keeps some of them (3, as a rule) for superusers.
    """

    name: ClassVar[str] = "take_connections"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    left: int = 0

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "connections that are left")

    def strike(self, target: HasPostgres) -> Strike:
        return strike_hold(self, target, target.admin.take_connections(self.left))


@dataclass(frozen=True)
class HoldLocks(Fault):
    """Hold tables for oneself (ACCESS EXCLUSIVE), as a migration does: whoever reads or writes them waits.

    Args:
        tables: one name or several; none for all tables.
    """

    name: ClassVar[str] = "hold_locks"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    tables: str | Sequence[str] = ()

    def strike(self, target: HasPostgres) -> Strike:
        return strike_hold(self, target, target.admin.hold_locks(_names(self.tables), self.label(target)))


@dataclass(frozen=True)
class SlowQueries(Fault):
    """Let each statement on tables take up to so much longer, in the server itself: its connection is busy meanwhile.

    Unlike a latency of the network this holds up other statements on the same connection, and a cancel gets through.

    Args:
        seconds: that a statement waits at most, half of it on average.
        tables: one name or several; none for all tables.
    """

    name: ClassVar[str] = "slow_queries"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    seconds: float
    tables: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        at_least("seconds", self.seconds, 0.01, "s")

    def strike(self, target: HasPostgres) -> Strike:
        hold = target.admin.slow_down(_names(self.tables), self.seconds, self.label(target))
        return strike_hold(self, target, hold)


def _names(tables: str | Sequence[str]) -> list[str]:
    return [tables] if isinstance(tables, str) else list(tables)


@dataclass(frozen=True)
class TerminateBackends(Fault):
    """End every session at once (57P01), as a failover or an administrator does; the server stays up, so there is nothing to heal."""

    name: ClassVar[str] = "terminate_backends"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)

    def strike(self, target: HasPostgres) -> Strike:
        ended = target.admin.terminate_backends()
        receipt = Receipt(ended, "connections", 0.0 if ended else None, 0.0 if ended else None)
        return target.register(Strike(self.label(target), self, heal=lambda: None, read_receipt=lambda: receipt))


@dataclass(frozen=True)
class Crash(Fault):
    """One session's process dies (SIGKILL), so Postgres throws all of them out and recovers (57P02, then 57P03 for a moment).

    The call returns when the server takes connections again; there is nothing to heal.
    """

    name: ClassVar[str] = "crash"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)

    def strike(self, target: HasPostgres) -> Strike:
        lost = target.admin.count_sessions()
        target.admin.crash_backend()
        receipt = Receipt(lost, "connections", 0.0 if lost else None, 0.0 if lost else None)
        return target.register(Strike(self.label(target), self, heal=lambda: None, read_receipt=lambda: receipt))


@dataclass(frozen=True)
class ReadOnly(Fault):
    """Writes fail (25006) and reads go on, as on a standby that was not promoted; a session that sets the mode itself escapes."""

    name: ClassVar[str] = "read_only"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)

    def strike(self, target: HasPostgres) -> Strike:
        heal = target.admin.forbid_writes()
        unknown = Receipt(None, "commands")  # the server does not count what it refused
        return target.register(Strike(self.label(target), self, heal=heal, read_receipt=lambda: unknown))
