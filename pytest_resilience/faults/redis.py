"""Faults inside Redis: it answers, and what it answers is an error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .fault import Fault, Receipt, Strike, Target, at_least

if TYPE_CHECKING:
    import redis


class Admin(Protocol):
    """A direct connection to the server, around the proxy."""

    @property
    def client(self) -> redis.Redis: ...


class RedisTarget(Target, Protocol):
    """A Redis that takes orders from us."""

    @property
    def admin(self) -> Admin: ...


class RedisFault(Fault):
    """A fault that the server itself is told to have; it counts what it refused."""

    targets: ClassVar[tuple[str, ...]] = ("redis",)
    unit: ClassVar[str] = "commands"

    def strike(self, target: RedisTarget) -> Strike:
        client = target.admin.client
        before = self.count(client)
        heal = self.hurt(client)

        def look() -> Receipt:
            return Receipt(self.count(client) - before, self.unit)

        return target.struck(Strike(self.label(target), self, heal=heal, look=look))

    @abstractmethod
    def hurt(self, client: redis.Redis) -> Callable[[], None]:
        """Do it; returns what takes it back."""

    @abstractmethod
    def count(self, client: redis.Redis) -> int:
        """How often the server has refused for this reason since it started."""


@dataclass(frozen=True)
class Oom(RedisFault):
    """Out of memory: writes get an OOM error, reads go on."""

    name: ClassVar[str] = "oom"

    def hurt(self, client: redis.Redis) -> Callable[[], None]:
        return _configured(client, {"maxmemory-policy": "noeviction", "maxmemory": "1"})

    def count(self, client: redis.Redis) -> int:
        return _errors(client, "OOM")


@dataclass(frozen=True)
class Readonly(RedisFault):
    """A replica of nobody, as after a failover that the client has missed: writes get a READONLY error, reads the old data."""

    name: ClassVar[str] = "readonly"

    def hurt(self, client: redis.Redis) -> Callable[[], None]:
        restore = _configured(client, {"replica-read-only": "yes", "replica-serve-stale-data": "yes"})
        client.replicaof("127.0.0.1", 1)  # nobody listens on port 1; the data stays as it is

        def heal() -> None:
            client.replicaof("NO", "ONE")
            restore()

        return heal

    def count(self, client: redis.Redis) -> int:
        return _errors(client, "READONLY")


@dataclass(frozen=True)
class MaxClients(RedisFault):
    """No connections left: new ones get an error and are closed, existing ones go on.

    Args:
        left: how many more may still connect.
    """

    name: ClassVar[str] = "max_clients"
    unit: ClassVar[str] = "connections"
    left: int = 0

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "connections that are left")

    def hurt(self, client: redis.Redis) -> Callable[[], None]:
        connected = int(_info(client, "clients")["connected_clients"])
        return _configured(client, {"maxclients": str(connected + self.left)})

    def count(self, client: redis.Redis) -> int:
        return int(_info(client, "stats")["rejected_connections"])


@dataclass(frozen=True)
class Flush(Fault):
    """All data gone at once, as by a mistaken FLUSHALL or a restart without persistence; there is no heal for that."""

    name: ClassVar[str] = "flush"
    targets: ClassVar[tuple[str, ...]] = ("redis",)

    def strike(self, target: RedisTarget) -> Strike:
        client = target.admin.client
        keys = sum(int(database["keys"]) for database in _info(client, "keyspace").values())
        client.flushall()
        receipt = Receipt(keys, "keys", 0.0 if keys else None, 0.0 if keys else None)
        return target.struck(Strike(self.label(target), self, heal=lambda: None, look=lambda: receipt))


def _configured(client: redis.Redis, settings: dict[str, str]) -> Callable[[], None]:
    """Change settings while it runs; returns what restores them, in the opposite order."""
    before: dict[str, Any] = {}
    for name, value in settings.items():
        before[name] = client.config_get(name)[name]
        client.config_set(name, value)

    def restore() -> None:
        for name, value in reversed(before.items()):
            client.config_set(name, value)

    return restore


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.info(section)
    return answer


def _errors(client: redis.Redis, code: str) -> int:
    """How many commands were answered with this error (INFO errorstats, Redis 6.2 and later)."""
    found = _info(client, "errorstats").get(f"errorstat_{code}", {"count": 0})
    return int(found["count"])
