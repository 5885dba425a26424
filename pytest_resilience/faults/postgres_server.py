"""Faults inside Postgres, such as held locks, terminated sessions and refused writes. MySQL has some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import SetupError
from .fault import Fault, FaultTarget, Hold, Need, Receipt, Strike, at_least, strike_at_once, strike_hold

LOCKED = "{target} has locked tables"
FEW_CONNECTIONS = "{target} has few connections left"
DATABASES = ("postgres", "mysql")
NO_CONNECTIONS = "{target} has no connection left"


class TablesLocked(SetupError):
    """Another session holds a lock on the tables of a fault."""


class TooFewConnections(SetupError):
    """The server has fewer free connections than a fault would leave."""


class PostgresControl(Protocol):
    """A superuser's session in the server, around the proxy. "Other sessions" are those that don't belong to this package."""

    def terminate_backends(self) -> int:
        """Terminate all other sessions. Return their number."""

    def crash_backend(self) -> None:
        """Kill the process of one session. Return when the server has recovered."""

    def forbid_writes(self) -> Callable[[], None]:
        """Make transactions read-only by default. Return the function that undoes it."""

    def count_refused_writes(self) -> Callable[[], Receipt]:
        """Return a function that returns the receipt of the writes that are refused from now on."""

    def count_sessions(self) -> int:
        """Return the number of other sessions."""

    def hold_locks(self, tables: Sequence[str], fault: str) -> Hold:
        """Hold an ACCESS EXCLUSIVE lock on tables, or on all tables if none is named."""

    def slow_down(self, tables: Sequence[str], seconds: float, fault: str) -> Hold:
        """Make statements on tables (empty for all tables) wait for up to `seconds`."""

    def take_connections(self, left: int) -> Hold:
        """Open connections until `left` are left."""


class HasPostgres(FaultTarget, Protocol):
    """A Postgres in which a superuser has a session."""

    @property
    def admin(self) -> PostgresControl: ...

    def settle_connections(self) -> None:
        """Wait until the connections are closed that clients have closed before."""


class PostgresFault(Fault):
    """A fault inside a Postgres."""

    targets: ClassVar[tuple[str, ...]] = ("postgres",)
    unit: ClassVar[str] = "connections"

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")


@dataclass(frozen=True)
class Starve(PostgresFault):
    """Starve the connection pool, by exactly one of two ways.

    Args:
        connections: take the server's connections until this many are left, so that new ones are refused (Postgres: 53300, MySQL:
            1040).
        lock: hold a lock on this table of Postgres, so that the service's own connections wait for it.
    """

    name: ClassVar[str] = "starve"
    targets: ClassVar[tuple[str, ...]] = DATABASES
    connections: int | None = None
    lock: str | None = None

    def __post_init__(self) -> None:
        if (self.connections is None) == (self.lock is None):
            raise SetupError("starve() needs either connections=N (the number left) or lock='table', and not both")
        if self.connections is not None:
            at_least("connections", self.connections, 0, "connections that are left", whole=True)

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "session") if self.lock is not None else ("process", "answers")

    def takes(self) -> Mapping[Need, str]:
        if self.lock is not None:
            return {"tables": LOCKED}
        return _taken_connections(self.connections)

    def strike(self, target: HasPostgres) -> Strike:
        if self.lock is not None:
            return _strike_locks(self, target, [self.lock])
        assert self.connections is not None
        return _strike_connections(self, target, self.connections)


@dataclass(frozen=True)
class TakeConnections(PostgresFault):
    """Take the server's connections until few are left, so that new ones are refused. Existing ones are not affected.

    Postgres refuses with 53300, MySQL with 1040.

    Args:
        left: how many are left. Postgres reserves some of them (3 by default) for superusers.
    """

    name: ClassVar[str] = "take_connections"
    targets: ClassVar[tuple[str, ...]] = DATABASES
    left: int = 0

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "connections that are left", whole=True)

    def takes(self) -> Mapping[Need, str]:
        return _taken_connections(self.left)

    def strike(self, target: HasPostgres) -> Strike:
        return _strike_connections(self, target, self.left)


@dataclass(frozen=True)
class HoldLocks(PostgresFault):
    """Lock tables (ACCESS EXCLUSIVE), as a migration does, so that each statement that reads or writes them waits.

    Args:
        tables: one name or several; empty for all tables.
    """

    name: ClassVar[str] = "hold_locks"
    tables: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        _freeze_tables(self)

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "session")

    def takes(self) -> Mapping[Need, str]:
        return {"tables": LOCKED}

    def strike(self, target: HasPostgres) -> Strike:
        return _strike_locks(self, target, _names(self.tables))


@dataclass(frozen=True)
class SlowQueries(PostgresFault):
    """Make each statement on tables take up to `seconds` longer, in the server itself, so that its connection is busy.

    Unlike a latency of the network, this delays other statements on the same connection too, and a cancellation gets through.

    Args:
        seconds: that a statement waits at most, half of it on average; at least 0.01.
        tables: one name or several; empty for all tables.
    """

    name: ClassVar[str] = "slow_queries"
    seconds: float
    tables: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        at_least("seconds", self.seconds, 0.01, "s")
        _freeze_tables(self)

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "session")

    def strike(self, target: HasPostgres) -> Strike:
        try:
            hold = target.admin.slow_down(_names(self.tables), self.seconds, self.label(target))
        except TablesLocked as error:
            raise self.cannot_strike(target, "tables", str(error)) from None
        return strike_hold(self, target, hold)


def _strike_locks(fault: Fault, target: HasPostgres, tables: Sequence[str]) -> Strike:
    """Return the registered strike of a fault that locks tables."""
    try:
        hold = target.admin.hold_locks(tables, fault.label(target))
    except TablesLocked as error:
        raise fault.cannot_strike(target, "tables", str(error)) from None
    return strike_hold(fault, target, hold)


def _taken_connections(left: int | None) -> Mapping[Need, str]:
    """Return what a fault takes that leaves some connections."""
    return {"connections": FEW_CONNECTIONS} if left else {"session": NO_CONNECTIONS, "connections": NO_CONNECTIONS}


def _strike_connections(fault: Fault, target: HasPostgres, left: int) -> Strike:
    """Return the registered strike of a fault that takes connections."""
    target.settle_connections()
    try:
        hold = target.admin.take_connections(left)
    except TooFewConnections as error:
        raise fault.cannot_strike(target, "connections", str(error)) from None
    return strike_hold(fault, target, hold)


def _names(tables: str | Sequence[str]) -> list[str]:
    return [tables] if isinstance(tables, str) else list(tables)


def _freeze_tables(fault: HoldLocks | SlowQueries) -> None:
    """Make the tables a tuple, so that faults from JSON, which has lists, are equal."""
    if not isinstance(fault.tables, str):
        object.__setattr__(fault, "tables", tuple(fault.tables))


@dataclass(frozen=True)
class TerminateBackends(PostgresFault):
    """Terminate every session at once (57P01), as a failover or an administrator does. The server stays up: nothing to heal."""

    name: ClassVar[str] = "terminate_backends"
    heals: ClassVar[bool] = False

    def strike(self, target: HasPostgres) -> Strike:
        target.settle_connections()
        return strike_at_once(self, target, target.admin.terminate_backends())


@dataclass(frozen=True)
class Crash(PostgresFault):
    """Kill the process of one session (SIGKILL), so that Postgres ends all sessions and recovers (57P02, then 57P03).

    The call returns when the server accepts connections again. There is nothing to heal.
    """

    name: ClassVar[str] = "crash"
    heals: ClassVar[bool] = False

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "session")

    def strike(self, target: HasPostgres) -> Strike:
        target.settle_connections()
        number = target.admin.count_sessions()
        target.admin.crash_backend()
        return strike_at_once(self, target, number)


@dataclass(frozen=True)
class ReadOnly(PostgresFault):
    """Refuse writes, as a standby does that was not promoted. Reads work.

    Postgres refuses with 25006, unless a session sets the mode itself. MySQL refuses with 1290, except for users with SUPER.
    """

    name: ClassVar[str] = "read_only"
    targets: ClassVar[tuple[str, ...]] = DATABASES
    unit: ClassVar[str] = "commands"

    def heal_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")

    def strike(self, target: HasPostgres) -> Strike:
        read_receipt = target.admin.count_refused_writes()
        heal = target.admin.forbid_writes()
        return target.register(Strike(self.label(target), self, heal=heal, read_receipt=read_receipt))
