"""Faults inside Redis, which answers with errors or loses its data."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

from ..clients.redis import RedisClient
from ..clock import wait_until
from ..errors import CannotInject, SetupError
from ..wire.redis import ErrorReply, parse_info, parse_info_field
from .fault import Fault, FaultTarget, Need, Receipt, Strike, Undo, at_least
from .setting_layers import PRIMARY, SettingLayers

PADDING_KEYS = 3000  # keys that prolong the loading to 30 s, at 10 ms each
PADDING_PREFIX = "pytest-resilience-loading"
BEGIN_TIMEOUT = 5.0  # seconds
END_TIMEOUT = 10.0  # seconds
DISCONNECTIONS = "client_output_buffer_limit_disconnections"  # Redis 7.2 and later
RESTARTED = "the server has started again since, and counts from 0"
RESET_COUNTS = "CONFIG RESETSTAT has set the server's counts back since"


class RedisControl(Protocol):
    """A session in the server, around the proxy."""

    @property
    def client(self) -> RedisClient: ...

    @property
    def layers(self) -> SettingLayers: ...


class SnapshotStore(Protocol):
    """A server with data on disk that can be deleted.

    Attributes:
        debug_command: the name of its command DEBUG.
    """

    debug_command: str

    def alive(self) -> bool:
        """True if its main process exists, paused or not."""

    def processes(self) -> list[int]:
        """Return the ids of its processes, the main process first."""

    def discard_snapshot(self) -> None:
        """Delete the saved data, so that the server is empty after a kill."""


class HasRedis(FaultTarget, Protocol):
    """A Redis in which this package has a session."""

    @property
    def admin(self) -> RedisControl: ...

    @property
    def server(self) -> SnapshotStore: ...

    def settle_connections(self) -> None:
        """Wait until the connections are closed that clients have closed before."""


class RedisFault(Fault):
    """A fault that commands inject into the server. The server counts the commands that it refuses."""

    targets: ClassVar[tuple[str, ...]] = ("redis",)
    unit: ClassVar[str] = "commands"

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers")

    def heal_needs(self) -> tuple[Need, ...]:
        return ("answers",)

    def strike(self, target: HasRedis) -> Strike:
        run_id, before = _run_id(target), self.count(target.admin.client)
        undo = self.inject(target)
        changes = _count_changes(target)

        def read_receipt() -> Receipt:
            if _run_id(target) != run_id:
                return Receipt(None, self.unit, note=RESTARTED)
            number = self.count(target.admin.client) - before
            if number < 0 or _count_changes(target) < changes:
                return Receipt(None, self.unit, note=RESET_COUNTS)
            return Receipt(number, self.unit)

        return target.register(
            Strike(
                self.label(target),
                self,
                heal=_unless_killed(target, undo),
                read_receipt=read_receipt,
                in_force=_while_it_runs(target),
            )
        )

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
        return target.admin.layers.add(target.admin.client, {"maxmemory-policy": "noeviction", "maxmemory": "1"})

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

    def takes(self) -> Mapping[Need, str]:
        return {"writes": "{target} is a replica, which refuses writes"}

    def inject(self, target: HasRedis) -> Callable[[], None]:
        settings = {"replica-read-only": "yes", "replica-serve-stale-data": "yes" if self.stale else "no"}
        settings[PRIMARY] = "127.0.0.1 1"  # no server listens on port 1; the data stays as it is
        return target.admin.layers.add(target.admin.client, settings)

    def count(self, client: RedisClient) -> int:
        # UNBLOCKED is the reply to a command that has waited for data, such as BLPOP, when the server turns into a replica.
        return sum(_count_errors(client, code) for code in ("READONLY", "MASTERDOWN", "UNBLOCKED"))


@dataclass(frozen=True)
class Loading(RedisFault):
    """Answer every command with a LOADING error, as a server does that loads its data, for 30 s or until the heal. The data stays.

    The server must allow the command DEBUG, as the servers of the backends do.
    """

    name: ClassVar[str] = "loading"

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "session")

    def takes(self) -> Mapping[Need, str]:
        return {"answers": "{target} answers every command with LOADING"}

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
        run_id = _run_id(target)
        undo = Undo()
        undo.add(target.server.discard_snapshot)

        def end_loading(reading: _BackgroundCommand) -> None:
            if _run_id(target) == run_id:
                client.configure("key-load-delay", "0")
            reading.wait()

        try:
            undo.add(_unless_killed(target, lambda: _delete_padding(client)))
            _run_unlogged(client, debug, "POPULATE", str(PADDING_KEYS), PADDING_PREFIX, "1100")
            slow = {"rdbcompression": "no", "loading-process-events-interval-bytes": "1024", "key-load-delay": "10000"}
            undo.add(_unless_killed(target, target.admin.layers.add(client, slow)))
            reading = _BackgroundCommand(client, debug, "RELOAD", run=_run_unlogged)
            undo.add(partial(end_loading, reading))
            reading.wait_until(
                lambda: client.info("persistence")["loading"] == "1", "the server does not begin to load"
            )
            target.server.discard_snapshot()  # the server has opened it, and a killed one must not load it
        except BaseException:
            undo()
            raise
        return undo

    def count(self, client: RedisClient) -> int:
        return _count_errors(client, "LOADING")


@dataclass(frozen=True)
class BusyScript(Fault):
    """Run a script that does not end, so that every other command gets a BUSY error. The heal kills the script."""

    name: ClassVar[str] = "busy_script"
    targets: ClassVar[tuple[str, ...]] = ("redis",)
    unit: ClassVar[str] = "commands"

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "session")

    def heal_needs(self) -> tuple[Need, ...]:
        return ("answers",)

    def takes(self) -> Mapping[Need, str]:
        return {"answers": "{target} answers every command with BUSY"}

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        run_id, before = _run_id(target), _count_errors(client, "BUSY")
        restore = target.admin.layers.add(client, {"lua-time-limit": "1"})
        try:
            script = _BackgroundCommand(client, "EVAL", "while true do end", "0")
        except BaseException:
            restore()
            raise
        receipts = [Receipt(None, self.unit)]  # a busy server does not answer INFO either
        own: list[ErrorReply] = []  # the answers to `is_busy` that count as errors of the server

        def is_busy() -> bool:
            try:
                client.call("PING")
            except ErrorReply as error:
                if "BUSY" not in str(error):
                    return False
                own.append(error)
                return True
            return False

        def heal() -> None:
            if script.running and target.server.alive():
                client.call("SCRIPT", "KILL")
            script.wait()
            if _run_id(target) == run_id:
                restore()
                refused = _count_errors(client, "BUSY") - before - len(own)
                receipts[0] = Receipt(max(0, refused), self.unit)

        try:
            script.wait_until(is_busy, "the script does not keep the server busy")
        except BaseException:
            heal()
            raise
        return target.register(
            Strike(
                self.label(target),
                self,
                heal=heal,
                read_receipt=lambda: receipts[0],
                settles_late=True,
                in_force=lambda: script.running,
            )
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

    def takes(self) -> Mapping[Need, str]:
        reason = "{target} accepts no further connection"
        return {"connections": reason} if self.left else {"session": reason, "connections": reason}

    def __post_init__(self) -> None:
        at_least("left", self.left, 0, "connections that are left", whole=True)

    def inject(self, target: HasRedis) -> Callable[[], None]:
        client = target.admin.client
        target.settle_connections()
        connected = int(client.info("clients")["connected_clients"])
        return target.admin.layers.add(client, {"maxclients": str(connected + self.left)})

    def count(self, client: RedisClient) -> int:
        return int(client.info("stats")["rejected_connections"])


@dataclass(frozen=True)
class ClientKillOutputBuffer(RedisFault):
    """Let the server close each client whose answers exceed its output buffer, as it does with slow subscribers and huge replies.

    The server has a buffer of 16 KiB for each client outside of the limit, so only larger answers, or many answers that a client
    does not read, are affected. Valkey 9 sends a long string, as GET returns it, without a copy in the buffer.

    Args:
        bytes: the limit in bytes for clients and subscribers (client-output-buffer-limit); at least 1.
    """

    name: ClassVar[str] = "client_kill_output_buffer"
    unit: ClassVar[str] = "connections"
    bytes: int = 1

    def __post_init__(self) -> None:
        at_least("bytes", self.bytes, 1, "byte", whole=True)

    def inject(self, target: HasRedis) -> Callable[[], None]:
        limits = f"normal {self.bytes} 0 0 pubsub {self.bytes} 0 0"
        return target.admin.layers.add(target.admin.client, {"client-output-buffer-limit": limits})

    def count(self, client: RedisClient) -> int:
        return int(client.info("stats")[DISCONNECTIONS])

    def strike(self, target: HasRedis) -> Strike:
        if DISCONNECTIONS not in target.admin.client.info("stats"):
            raise CannotInject(f"{self.label(target)}: this server does not count the clients that it closes")
        return super().strike(target)


@dataclass(frozen=True)
class Flush(Fault):
    """Delete all data at once, as a mistaken FLUSHALL or a restart without persistence does. There is no heal."""

    name: ClassVar[str] = "flush"
    heals: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("redis",)

    def strike_needs(self) -> tuple[Need, ...]:
        return ("process", "answers", "writes")

    def strike(self, target: HasRedis) -> Strike:
        client = target.admin.client
        # The server executes both before the commands of other clients, so no key escapes the count.
        keyspace, deleted = client.call_all([("INFO", "keyspace"), ("FLUSHALL",)])
        for reply in (keyspace, deleted):
            if isinstance(reply, ErrorReply):
                raise reply
        keys = sum(int(parse_info_field(database)["keys"]) for database in parse_info(str(keyspace)).values())
        receipt = Receipt(keys, "keys", 0.0 if keys else None, 0.0 if keys else None)
        return target.register(Strike(self.label(target), self, heal=lambda: None, read_receipt=lambda: receipt))


class _BackgroundCommand:
    """A long command, on a separate connection and in a separate thread."""

    def __init__(self, client: RedisClient, *command: str, run: Callable[..., None] | None = None) -> None:
        self._client = client.duplicate(timeout=None)
        self._command = command
        self._run_command = run or _call
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="resilience-command", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._run_command(self._client, *self._command)
        except Exception as error:  # noqa: BLE001  # an error ends the command, as when it is killed
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait_until(self, begun: Callable[[], bool], problem: str) -> None:
        """Wait until the command has its effect.

        Raises:
            SetupError: it has none after 5 s, or it has ended.
        """
        if wait_until(lambda: begun() or not self.running, within=BEGIN_TIMEOUT, every=0.002) and begun():
            return
        reason = (
            f"{BEGIN_TIMEOUT:g} s after the command" if self.running else f"because the command ended: {self._error}"
        )
        raise SetupError(f"{problem}, {reason}")

    def wait(self) -> None:
        """Wait until the command has ended."""
        self._thread.join(END_TIMEOUT)
        self._client.close()
        if self._thread.is_alive():
            raise SetupError(f"{' '.join(self._command[:2])} has not ended within {END_TIMEOUT:g} s")


def _delete_padding(client: RedisClient) -> None:
    """Delete the keys that prolong the loading, also from a server that the fault `readonly` has turned into a replica."""
    read_only = client.setting("replica-read-only") or "yes"
    names = [f"{PADDING_PREFIX}:{number}" for number in range(PADDING_KEYS)]
    change = ("CONFIG", "SET", "replica-read-only")
    for reply in client.call_all([(*change, "no"), ("UNLINK", *names), (*change, read_only)]):
        if isinstance(reply, ErrorReply):
            raise reply


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


def _run_id(target: HasRedis) -> str | None:
    """Return the id of the server's present run, or None if it has none or does not run."""
    return target.admin.client.info("server").get("run_id") if target.server.alive() else None


def _while_it_runs(target: HasRedis) -> Callable[[], bool]:
    """Return a function that is true until the present main process of the server has ended. It sends no command."""
    main = target.server.processes()[:1]
    return lambda: target.server.processes()[:1] == main


def _unless_killed(target: HasRedis, undo: Callable[[], None]) -> Callable[[], None]:
    """Return a heal that does nothing while the server is killed, because its settings are gone with its process."""

    def heal() -> None:
        if target.server.alive():
            undo()

    return heal


def _count_changes(target: HasRedis) -> int:
    """Return how often settings were changed (CONFIG SET) since the server's start, or since CONFIG RESETSTAT."""
    found = target.admin.client.info("commandstats")
    changes = found.get("cmdstat_config|set") or found.get("cmdstat_config", "calls=0")  # the second before Redis 7
    return int(parse_info_field(changes)["calls"])


def _count_errors(client: RedisClient, code: str) -> int:
    """Return how many commands were answered with an error (INFO errorstats, Redis 6.2 and later)."""
    found = client.info("errorstats").get(f"errorstat_{code}", "count=0")
    return int(parse_info_field(found)["count"])
