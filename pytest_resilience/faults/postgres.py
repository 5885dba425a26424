"""Faults inside Postgres: starvation of the pool in front of it."""

from __future__ import annotations

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
