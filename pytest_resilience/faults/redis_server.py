"""Faults inside Redis, which answers with errors or loses its data."""

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

PADDING_KEYS = 3000  # keys that prolong the loading to 30 s, at 10 ms each
PADDING_PREFIX = "pytest-resilience-loading"
BEGIN_TIMEOUT = 5.0  # seconds
END_TIMEOUT = 10.0  # seconds


class RedisControl(Protocol):
    """A session in the server, around the proxy."""

    @property
    def client(self) -> RedisClient: ...


class SnapshotStore(Protocol):
    """A server with data on disk that can be deleted.

    Attributes:
        debug_command: the name of its command DEBUG.
    """

    debug_command: str

    def discard_snapshot(self) -> None:
        """Delete the saved data, so that the server is empty after a kill."""


class HasRedis(FaultTarget, Protocol):
    """A Redis in which this package has a session."""

    @property
    def admin(self) -> RedisControl: ...

    @property
    def server(self) -> SnapshotStore: ...


class RedisFault(Fault):
    """A fault that commands inject into the server. The server counts the commands that it refuses."""

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
        """Inject the fault. Return the function that heals it."""

    @abstractmethod
    def count(self, client: RedisClient) -> int:
        """Return how often the server has refused a command for this reason since its start."""


@dataclass(frozen=True)
class Oom(RedisFault):
    """Fill the memory, so that writes get an OOM error. Reads work."""

    name: ClassVar[str] = "oom"

    def inject(self, target: HasRedis) -> Callable[[], None]:
        return _set_config(target.admin.client, {"maxmemory-policy": "noeviction", "maxmemory": "1"})

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "OOM")


@dataclass(frozen=True)
class Readonly(RedisFault):
    """Turn the server into a replica without a primary, as after a failover. Writes get a READONLY error, reads get old data.

    Args:
        stale: False for a MASTERDOWN error on reads and writes.
    """

    name: ClassVar[str] = "readonly"
    stale: bool = True

    def inject(self, target: HasRedis) -> Callable[[], None]:
        client = target.admin.client
        stale = "yes" if self.stale else "no"
        restore = _set_config(client, {"replica-read-only": "yes", "replica-serve-stale-data": stale})
        client.call("REPLICAOF", "127.0.0.1", "1")  # no server listens on port 1; the data stays as it is

        def heal() -> None:
            client.call("REPLICAOF", "NO", "ONE")
            restore()

        return heal

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "READONLY") + _count_errors(client, "MASTERDOWN")


@dataclass(frozen=True)
class Loading(RedisFault):
    """Answer every command with a LOADING error, as a server does that loads its data, for 30 s or until the heal. The data stays.

    The server must allow the command DEBUG, as the servers of the backends do.
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
            _wait_for(lambda: client.info("persistence")["loading"] == "1", "the server does not begin to load")
        except BaseException:
            heal()
            raise
        return heal

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "LOADING")


@dataclass(frozen=True)
class BusyScript(Fault):
    """Run a script that does not end, so that every other command gets a BUSY error. The heal kills the script."""

    name: ClassVar[str] = "busy_script"
    targets: ClassVar[tuple[str, ...]] = ("redis",)

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        before = _count_errors(client, "BUSY")
        restore = _set_config(client, {"lua-time-limit": "1"})
        script = _BackgroundCommand(client, "EVAL", "while true do end", "0")
        receipts = [Receipt(None, "commands")]  # a busy server does not answer INFO either

        def is_busy() -> bool:
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
            )  # one was an answer to `is_busy`

        try:
            _wait_for(is_busy, "the script does not keep the server busy")
        except BaseException:
            heal()
            raise
        return target.register(
            Strike(self.label(target), self, heal=heal, read_receipt=lambda: receipts[0], settles_late=True)
        )


@dataclass(frozen=True)
class MaxClients(RedisFault):
    """Leave no connections, so that new ones get an error and are closed. Existing ones work.

    Args:
        left: how many more clients may still connect; at least 0.
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
    """Delete all data at once, as a mistaken FLUSHALL or a restart without persistence does. There is no heal."""

    name: ClassVar[str] = "flush"
    heals: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("redis",)

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        keys = sum(int(parse_info_field(database)["keys"]) for database in client.info("keyspace").values())
        client.call("FLUSHALL")
        receipt = Receipt(keys, "keys", 0.0 if keys else None, 0.0 if keys else None)
        return target.register(Strike(self.label(target), self, heal=lambda: None, read_receipt=lambda: receipt))


class _BackgroundCommand:
    """A long command, on a separate connection and in a separate thread."""

    def __init__(self, client: RedisClient, *command: str, run: Callable[..., None] | None = None) -> None:
        self._client = client.duplicate(timeout=None)
        self._command = command
        self._run_command = run or _call
        self._thread = threading.Thread(target=self._run, name="resilience-command", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # an error ends the command, as when it is killed
            self._run_command(self._client, *self._command)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the command has ended."""
        self._thread.join(END_TIMEOUT)
        self._client.close()
        if self._thread.is_alive():
            raise SetupError(f"{' '.join(self._command[:2])} has not ended within {END_TIMEOUT:g} s")


def _call(client: RedisClient, *command: str) -> None:
    client.call(*command)


def _run_unlogged(client: RedisClient, *command: str) -> None:
    """Run a command with a secret name, and clear the server's logs of commands before another client can read them.

    A server executes all commands that it has read from one client before it serves another one. MULTI is no alternative: DEBUG RELOAD
    serves other clients while it runs, and inside MULTI that ends Valkey 9.1 by a failed assertion.
    """
    commands: list[tuple[str, ...]] = [command, ("SLOWLOG", "RESET")]
    if client.setting("commandlog-*") is not None:  # Valkey from 8.1 on
        commands += [("COMMANDLOG", "RESET", "large-request"), ("COMMANDLOG", "RESET", "large-reply")]
    for reply in client.call_all(commands):
        if isinstance(reply, ErrorReply):
            raise reply


def _wait_for(begun: Callable[[], bool], problem: str) -> None:
    if not wait_until(begun, within=BEGIN_TIMEOUT, every=0.002):
        raise SetupError(f"{problem}, {BEGIN_TIMEOUT:g} s after the command")


def _set_config(client: RedisClient, settings: dict[str, str]) -> Callable[[], None]:
    """Change settings of the running server. Return the function that restores them, in reverse order."""
    before: dict[str, str] = {}

    def restore() -> None:
        for name, value in reversed(before.items()):
            client.configure(name, value)

    try:
        for name, value in settings.items():
            present = client.setting(name)
            if present is None:
                raise CannotInject(f"this server has no setting {name!r}")
            client.configure(name, value)
            before[name] = present
    except BaseException:
        restore()
        raise
    return restore


def _count_errors(client: RedisClient, code: str) -> int:
    """Return how many commands were answered with an error (INFO errorstats, Redis 6.2 and later)."""
    found = client.info("errorstats").get(f"errorstat_{code}", "count=0")
    return int(parse_info_field(found)["count"])
