"""Faults inside Postgres: starvation of the pool in front of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..errors import SetupError
from .fault import Fault, Receipt, Strike, Target, at_least


class Grip(Protocol):
    """Something held in the server until released, and what it was in the way of."""

    def touched(self) -> tuple[int | None, float | None, float | None]:
        """How many sessions it stopped so far, and the first and last time, in seconds since it was taken."""

    def release(self) -> None:
        """Let go; nothing when that is done already."""


class Admin(Protocol):
    """The superuser's door to the server, around the proxy."""

    def terminate_backends(self) -> int:
        """End all sessions of others; returns how many."""

    def crash_backend(self) -> None:
        """Kill one session's process; returns when the server has recovered from that."""

    def forbid_writes(self) -> Callable[[], None]:
        """Make transactions read-only by default; returns what allows writes again."""

    def count_sessions(self) -> int:
        """How many sessions of others there are."""

    def hold_lock(self, table: str) -> Grip:
        """Hold an ACCESS EXCLUSIVE lock on a table."""

    def take_connections(self, left: int) -> Grip:
        """Open connections until `left` are left for others."""


class PostgresTarget(Target, Protocol):
    """A Postgres with a door for superusers."""

    @property
    def admin(self) -> Admin: ...


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

    def strike(self, target: PostgresTarget) -> Strike:
        if self.lock is not None:
            grip = target.admin.hold_lock(self.lock)
        else:
            assert self.connections is not None
            grip = target.admin.take_connections(self.connections)

        def look() -> Receipt:
            count, first, last = grip.touched()
            return Receipt(count, "connections", first, last)

        return target.struck(Strike(self.label(target), self, heal=grip.release, look=look))


@dataclass(frozen=True)
class TerminateBackends(Fault):
    """End every session at once (57P01), as a failover or an administrator does; the server stays up, so there is nothing to heal."""

    name: ClassVar[str] = "terminate_backends"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)

    def strike(self, target: PostgresTarget) -> Strike:
        ended = target.admin.terminate_backends()
        receipt = Receipt(ended, "connections", 0.0 if ended else None, 0.0 if ended else None)
        return target.struck(Strike(self.label(target), self, heal=lambda: None, look=lambda: receipt))


@dataclass(frozen=True)
class Crash(Fault):
    """One session's process dies (SIGKILL), so Postgres throws all of them out and recovers (57P02, then 57P03 for a moment).

    The call returns when the server takes connections again; there is nothing to heal.
    """

    name: ClassVar[str] = "crash"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)

    def strike(self, target: PostgresTarget) -> Strike:
        lost = target.admin.count_sessions()
        target.admin.crash_backend()
        receipt = Receipt(lost, "connections", 0.0 if lost else None, 0.0 if lost else None)
        return target.struck(Strike(self.label(target), self, heal=lambda: None, look=lambda: receipt))


@dataclass(frozen=True)
class ReadOnly(Fault):
    """Writes fail (25006) and reads go on, as on a standby that was not promoted; a session that sets the mode itself escapes."""

    name: ClassVar[str] = "read_only"
    targets: ClassVar[tuple[str, ...]] = ("postgres",)

    def strike(self, target: PostgresTarget) -> Strike:
        heal = target.admin.forbid_writes()
        unknown = Receipt(None, "commands")  # the server does not count what it refused
        return target.struck(Strike(self.label(target), self, heal=heal, look=lambda: unknown))
