"""Faults inside Redis: it answers, and what it answers is an error."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..clients.redis import RedisClient
from ..clock import wait_until
from ..errors import CannotInject, SetupError
from ..wire.redis import ErrorReply, parse_info_field
from .fault import Fault, FaultTarget, Receipt, Strike, at_least

PADDING_KEYS = 3000  # keys that make the loading last; at 10 ms each 30 s
PADDING_PREFIX = "pytest-resilience-loading"
BEGIN_TIMEOUT = 5.0  # seconds
END_TIMEOUT = 10.0  # seconds


class RedisControl(Protocol):
    """A direct connection to the server, around the proxy."""

    @property
    def client(self) -> RedisClient: ...


class SnapshotStore(Protocol):
    """The server, and what it has on disk."""

    debug_command: str

    def discard_snapshot(self) -> None:
        """Remove what it has saved, so that killed it comes back empty."""


class HasRedis(FaultTarget, Protocol):
    """A Redis that takes orders from us."""

    @property
    def admin(self) -> RedisControl: ...

    @property
    def server(self) -> SnapshotStore: ...


class RedisFault(Fault):
    """A fault that the server itself is receipts to have; it counts what it refused."""

    targets: ClassVar[tuple[str, ...]] = ("redis",)
    unit: ClassVar[str] = "commands"

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        before = self.count(client)
        heal = self.inject(target)

        def read_receipt() -> Receipt:
            return Receipt(self.count(client) - before, self.unit)

        return target.register(Strike(self.label(target), self, heal=heal, read_receipt=read_receipt))

    @abstractmethod
    def inject(self, target: HasRedis) -> Callable[[], None]:
        """Do it; returns what takes it back."""

    @abstractmethod
    def count(self, client: RedisClient) -> int:
        """How often the server has refused for this reason since it started."""


@dataclass(frozen=True)
class Oom(RedisFault):
    """Out of memory: writes get an OOM error, reads go on."""

    name: ClassVar[str] = "oom"

    def inject(self, target: HasRedis) -> Callable[[], None]:
        return _set_config(target.admin.client, {"maxmemory-policy": "noeviction", "maxmemory": "1"})

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "OOM")


@dataclass(frozen=True)
class Readonly(RedisFault):
    """A replica of nobody, as after a failover that the client has missed: writes get a READONLY error, reads the old data.

    Args:
        stale: whether reads get the old data; if not, they get a MASTERDOWN error, and so do writes.
    """

    name: ClassVar[str] = "readonly"
    stale: bool = True

    def inject(self, target: HasRedis) -> Callable[[], None]:
        client = target.admin.client
        stale = "yes" if self.stale else "no"
        restore = _set_config(client, {"replica-read-only": "yes", "replica-serve-stale-data": stale})
        client.call("REPLICAOF", "127.0.0.1", "1")  # nobody listens on port 1; the data stays as it is

        def heal() -> None:
            client.call("REPLICAOF", "NO", "ONE")
            restore()

        return heal

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "READONLY") + _count_errors(client, "MASTERDOWN")


@dataclass(frozen=True)
class Loading(RedisFault):
    """It has started and still reads its data: every command gets a LOADING error, for 30 s or until the heal. The data stays.

    Needs DEBUG, which our backends' servers have.
    """

    name: ClassVar[str] = "loading"

    def strike(self, target: HasRedis) -> Strike:
        try:
            return super().strike(target)
        except Exception as error:
            if "DEBUG" not in str(error):
                raise
            raise CannotInject(
                f"{self.label(target)}: this server does not allow the DEBUG command ({error})"
            ) from None

    def inject(self, target: HasRedis) -> Callable[[], None]:
        client, debug = target.admin.client, target.server.debug_command
        _run_unlogged(client, debug, "POPULATE", str(PADDING_KEYS), PADDING_PREFIX, "1100")
        slow = {"rdbcompression": "no", "loading-process-events-interval-bytes": "1024", "key-load-delay": "10000"}
        restore = _set_config(client, slow)
        reading = _BackgroundCommand(client, debug, "RELOAD", run=_run_unlogged)

        def heal() -> None:
            client.configure("key-load-delay", "0")
            reading.wait()
            client.call("UNLINK", *(f"{PADDING_PREFIX}:{number}" for number in range(PADDING_KEYS)))
            restore()
            target.server.discard_snapshot()

        try:
            _wait_for(lambda: client.info("persistence")["loading"] == "1", "it does not begin to load")
        except BaseException:
            heal()
            raise
        return heal

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "LOADING")


@dataclass(frozen=True)
class BusyScript(Fault):
    """A script that does not end: every other command gets a BUSY error, until the heal kills the script."""

    name: ClassVar[str] = "busy_script"
    targets: ClassVar[tuple[str, ...]] = ("redis",)

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        before = _count_errors(client, "BUSY")
        restore = _set_config(client, {"lua-time-limit": "1"})
        script = _BackgroundCommand(client, "EVAL", "while true do end", "0")
        receipts = [Receipt(None, "commands")]  # a server that is busy does not tell even that

        def busy() -> bool:
            try:
                client.call("PING")
            except ErrorReply as error:
                return "BUSY" in str(error)
            return False

        def heal() -> None:
            if script.running:
                client.call("SCRIPT", "KILL")
            script.wait()
            restore()
            receipts[0] = Receipt(
                max(0, _count_errors(client, "BUSY") - before - 1), "commands"
            )  # one of them was receipts to us

        try:
            _wait_for(busy, "the script does not keep it busy")
        except BaseException:
            heal()
            raise
        return target.register(
            Strike(self.label(target), self, heal=heal, read_receipt=lambda: receipts[0], settles_late=True)
        )


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

    def inject(self, target: HasRedis) -> Callable[[], None]:
        client = target.admin.client
        connected = int(client.info("clients")["connected_clients"])
        return _set_config(client, {"maxclients": str(connected + self.left)})

    def count(self, client: RedisClient) -> int:
        return int(client.info("stats")["rejected_connections"])


@dataclass(frozen=True)
class Flush(Fault):
    """All data gone at once, as by a mistaken FLUSHALL or a restart without persistence; there is no heal for that."""

    name: ClassVar[str] = "flush"
    targets: ClassVar[tuple[str, ...]] = ("redis",)

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        keys = sum(int(parse_info_field(database)["keys"]) for database in client.info("keyspace").values())
        client.call("FLUSHALL")
        receipt = Receipt(keys, "keys", 0.0 if keys else None, 0.0 if keys else None)
        return target.register(Strike(self.label(target), self, heal=lambda: None, read_receipt=lambda: receipt))


class _BackgroundCommand:
    """A command that takes long, on a connection and in a thread of its own."""

    def __init__(self, client: RedisClient, *command: str, run: Callable[..., None] | None = None) -> None:
        self._client = client.duplicate(timeout=None)
        self._command = command
        self._run_command = run or _call
        self._thread = threading.Thread(target=self._run, name="resilience-command", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # it is killed, or its server: then it is over
            self._run_command(self._client, *self._command)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> None:
        """Until it is over."""
        self._thread.join(END_TIMEOUT)
        self._client.close()
        if self._thread.is_alive():
            raise SetupError(f"{' '.join(self._command[:2])} has not ended within {END_TIMEOUT:g} s")


def _call(client: RedisClient, *command: str) -> None:
    client.call(*command)


def _run_unlogged(client: RedisClient, *command: str) -> None:
    """Run a command whose name is a secret, and empty the server's logs of commands before another client can read them.

    A server works off what it has read from a client before it turns to another one. MULTI would do the same, but in it DEBUG RELOAD, which
    serves other clients while it runs, ends Valkey 9.1 by a failed assertion.
    """
    commands: list[tuple[str, ...]] = [command, ("SLOWLOG", "RESET")]
    if client.setting("commandlog-*") is not None:  # Valkey from 8.1 on
        commands += [("COMMANDLOG", "RESET", "large-request"), ("COMMANDLOG", "RESET", "large-reply")]
    for reply in client.call_all(commands):
        if isinstance(reply, ErrorReply):
            raise reply


def _wait_for(begun: Callable[[], bool], otherwise: str) -> None:
    if not wait_until(begun, within=BEGIN_TIMEOUT, every=0.002):
        raise SetupError(f"{otherwise}, {BEGIN_TIMEOUT:g} s after it was receipts to")


def _set_config(client: RedisClient, settings: dict[str, str]) -> Callable[[], None]:
    """Change settings while it runs; returns what restores them, in the opposite order."""
    before: dict[str, str] = {}
    for name, value in settings.items():
        present = client.setting(name)
        if present is None:
            raise CannotInject(f"this server has no setting {name!r}")
        before[name] = present
        client.configure(name, value)

    def restore() -> None:
        for name, value in reversed(before.items()):
            client.configure(name, value)

    return restore


def _count_errors(client: RedisClient, code: str) -> int:
    """How many commands were answered with this error (INFO errorstats, Redis 6.2 and later)."""
    found = client.info("errorstats").get(f"errorstat_{code}", "count=0")
    return int(parse_info_field(found)["count"])
