"""What every backend offers: servers, the Toxiproxy in front of them, and a place to run the service under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from ..errors import CannotInject, SetupError
from ..processes import ManagedProcess
from ..proxy_client.counters import ConnectionCounts, ProxiedClients


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "host:port"."""
        host, _, port = text.rpartition(":")
        return cls(host, int(port))


class Server(ABC):
    """A Postgres or a Redis that the tests may strike.

    Attributes:
        kind: which of the two.
        version: as people say it: "18.6", "9.1.2 (valkey)".
        direct_address: as the test's process reaches it.
        upstream_address: as the proxy reaches it.
        exclusive: whether the server is all ours, to be emptied as a whole. If not, only the database that its URL names is.
        log_readable: whether its log can be read.
        debug_command: what a Redis calls its command DEBUG.
    """

    kind: Literal["postgres", "redis"]
    version: str
    exclusive: bool = True
    log_readable: bool = True
    debug_command: str = "DEBUG"
    direct_address: Address
    upstream_address: Address

    @abstractmethod
    def url(self, address: Address) -> str:
        """The URL, credentials included, for reaching it by way of `address`."""

    @abstractmethod
    def processes(self) -> list[int]:
        """The ids of its processes, the main one first; empty when it is down."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether its main process exists; a paused one does."""

    @abstractmethod
    def start(self) -> None:
        """Start it on the same port with the data that it had, and wait until it answers. Nothing to do when it runs.

        Raises:
            ServerNotReady: it does not answer, with the reason from its log.
        """

    @abstractmethod
    def stop(self) -> None:
        """Have it shut down in order; its clients lose their connections."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to all its processes; returns when they are gone."""

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    @abstractmethod
    def pause(self) -> None:
        """SIGSTOP to all its processes; returns when none of them runs."""

    @abstractmethod
    def resume(self) -> None:
        """Take a pause back."""

    def kill_session(self, pid: int) -> None:
        """SIGKILL to one of its processes alone, by the id that the server itself knows it by.

        Raises:
            CannotInject: there is no way to it from here.
        """
        raise CannotInject(f"{self.kind}.crash: the server's processes can't be signalled from here")

    def discard_snapshot(self) -> None:  # noqa: B027  # most have nothing to do
        """Remove what a Redis has saved on disk, so that killed it comes back empty; nothing for a Postgres."""

    @abstractmethod
    def log_size(self) -> int:
        """How many bytes its log has; hand it to `log_text` to read what comes after."""

    @abstractmethod
    def log_text(self, since: int = 0) -> str:
        """Its log from byte `since` on."""

    @abstractmethod
    def check(self) -> None:
        """See whether it is as it was left.

        Raises:
            BackendDied: it ended although nobody asked it to.
        """


class MemoryLimit(Protocol):
    """A control group with a limit of memory."""

    def add(self, pid: int) -> bool:
        """Put a process in; False when it is in already, or has gone."""

    def affected_processes(self) -> int | None:
        """Count the processes that met the limit; None where the kernel does not say."""

    def remove(self) -> None:
        """Take all processes out and remove the group."""


class Backend(ABC):
    """Where servers and their proxy come from. A context manager.

    Attributes:
        name: "embedded", "docker" or "external".
        reason: one phrase for pytest's header: why this backend.
        servers: "postgres" and "redis", from `start` to `close`.
        api: where the Toxiproxy's HTTP API listens.
        directory: for logs and the like; gone after `close`.
        unsupported: the faults that it can't inject, such as "postgres.kill", each with the reason.
        shares_toxiproxy: whether others may have proxies on the same Toxiproxy, which then must not be reset as a whole.
        proxy_prefix: what the names of its proxies begin with.
        template_database: name of the database that a changed schema is restored from.
    """

    unsupported: Mapping[str, str] = {}  # nobody writes to it
    shares_toxiproxy: bool = False
    proxy_prefix: str = ""
    template_database: str = "resilience_baseline"

    name: str
    reason: str
    servers: dict[str, Server]
    api: Address
    directory: Path

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def start(self) -> None:
        """Bring everything up; returns when everything answers. On an error nothing is left running.

        Raises:
            BackendUnavailable: it can't be had on this machine.
            ServerNotReady: a server or the proxy did not come up.
        """

    @abstractmethod
    def close(self) -> None:
        """End everything and leave nothing behind. May be called again."""

    def add_server(self, kind: Literal["postgres", "redis"], name: str) -> None:
        """Start one more server, known as `servers[name]` from then on, and wait until it answers.

        Raises:
            SetupError: this backend has no more than it was given.
            ServerNotReady: it does not come up.
        """
        raise SetupError(f"{self.name} has one Postgres and one Redis, and can't start {name!r}")

    @abstractmethod
    def proxy_addresses(self, name: str) -> tuple[str, str]:
        """The `listen` and `upstream` of a new proxy in front of the server `name`; another port each time."""

    @abstractmethod
    def client_address(self, listen: str) -> Address:
        """Where a test reaches a proxy that listens at `listen`."""

    def connection_counts(self, proxy: str) -> ConnectionCounts | None:
        """How many connections a proxy has had, where the Toxiproxy itself does not count and the backend can know."""
        return None

    def proxied_clients(self, proxy: str) -> ProxiedClients | None:
        """Who is connected through a proxy, where the Toxiproxy itself does not say and the backend can know."""
        return None

    @abstractmethod
    def versions(self) -> str:
        """The versions of its servers in one phrase, for pytest's header."""

    @abstractmethod
    def spawn(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None
    ) -> ManagedProcess:
        """Run the service under test: a process that ends with the session at the latest; its log is `directory`/`name`.log."""

    def limit_memory(self, pid: int, limit_bytes: int) -> MemoryLimit:
        """Make a control group beside a process, whose members may take that much more memory, beyond which the kernel kills one.

        Returns:
            The group, empty; removed at the end of the session at the latest.

        Raises:
            CannotInject: this platform, user or backend can't.
        """
        raise CannotInject(f"{self.name}: nobody would remove a control group after a session that was killed")

    @abstractmethod
    def restart_dead(self) -> None:
        """Start again what has ended: servers on their ports with their data, the proxy without its proxies (`api` may change).

        Raises:
            ServerNotReady: it does not come up again.
        """

    @abstractmethod
    def check(self) -> None:
        """See whether servers and proxy are as they were left.

        Raises:
            BackendDied: one of them ended although nobody asked it to.
        """
