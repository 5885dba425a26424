"""The interface of a backend, which has servers, the Toxiproxy in front of them, and the process of the service under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from ..errors import CannotInject, SetupError
from ..processes import ManagedProcess
from ..proxy_client.counters import ConnectionCounts, ProxiedClients
from ..redaction import new_password


class Address(NamedTuple):
    """A host and a port."""

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
    """A server that tests may strike.

    Attributes:
        kind: such as "postgres" or "redis".
        version: the version as its vendor writes it: "18.6", "9.1.2 (valkey)".
        direct_address: the address for the test process.
        upstream_address: the address for the proxy.
        exclusive: True if only this session uses the server, so that all of it may be emptied. Otherwise only the database of its URL is.
        log_readable: True if `log_text` returns its log.
        debug_command: the name of the command DEBUG on this Redis.
    """

    kind: str
    version: str
    exclusive: bool = True
    log_readable: bool = True
    debug_command: str = "DEBUG"
    direct_address: Address
    upstream_address: Address

    @abstractmethod
    def url(self, address: Address) -> str:
        """Return the URL, credentials included, that reaches the server by `address`."""

    @abstractmethod
    def processes(self) -> list[int]:
        """Return the ids of its processes, the main process first. The list is empty when the server is down."""

    @abstractmethod
    def alive(self) -> bool:
        """True if its main process exists, paused or not."""

    @abstractmethod
    def start(self) -> None:
        """Start the server on its port with its data, and wait until it answers. Do nothing if it runs.

        Raises:
            ServerNotReady: the server does not answer. The error has the log.
        """

    @abstractmethod
    def stop(self) -> None:
        """Shut the server down in an orderly way. Its clients lose their connections."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to all its processes, and return when they have exited."""

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    @abstractmethod
    def pause(self) -> None:
        """Send SIGSTOP to all its processes, and return when all have stopped."""

    @abstractmethod
    def resume(self) -> None:
        """Continue all its processes after `pause`."""

    def kill_session(self, pid: int) -> None:
        """Send SIGKILL to one of its processes.

        Args:
            pid: the process id as the server reports it.

        Raises:
            CannotInject: this backend can't signal that process.
        """
        raise CannotInject(f"{self.kind}.crash: the server's processes can't be signalled from here")

    def discard_snapshot(self) -> None:  # noqa: B027  # most have nothing to do
        """Delete the data that a Redis has saved on disk, so that it starts empty after a kill. Do nothing for a Postgres."""

    @abstractmethod
    def log_size(self) -> int:
        """Return the size of its log in bytes, as an argument for `log_text`."""

    @abstractmethod
    def log_text(self, since: int = 0) -> str:
        """Return its log from byte `since` on."""

    @abstractmethod
    def check(self) -> None:
        """Check that the server still runs if it should.

        Raises:
            BackendDied: the server ended and no test had struck it.
        """


class SystemProgram(ABC):
    """A program that backends can run as a server.

    Args:
        image: the image with the program, for containers.

    Attributes:
        kind: such as "mysql".
        image: as above.
        password: the random password of the user that the URL names.
        ports: the ports on which it listens in a container, that of clients first.
        stop_signal: the signal for an orderly end.
    """

    kind: str
    ports: tuple[int, ...]
    stop_signal = "SIGTERM"

    def __init__(self, image: str) -> None:
        self.image = image
        self.password = new_password()

    @abstractmethod
    def command(self) -> list[str]:
        """Return the arguments for the entry point of the image."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Return the environment variables of the container. They have the secrets, because all users can read a command line."""

    @abstractmethod
    def url(self, address: Address) -> str:
        """Return the URL, credentials included, that reaches the server by `address`."""

    @abstractmethod
    def version_at(self, addresses: Sequence[Address]) -> str | None:
        """Return the version of the server, or None if it is not ready. Each call tries once.

        Args:
            addresses: the addresses of its ports, in the order of `ports`.

        Raises:
            OSError: the server does not answer yet.
        """


class SystemServer(Server):
    """A server that runs such a program.

    Attributes:
        addresses: the addresses of its ports on this machine, in the order of the program's `ports`. They stay when the server starts
            again.
    """

    addresses: Sequence[Address]


class CgroupLimit(Protocol):
    """A control group with a memory limit."""

    def add(self, pid: int) -> bool:
        """Move a process into the group. Return False if it is a member already, or has exited."""

    def affected_processes(self) -> int | None:
        """Return the number of processes that met the limit, or None where the kernel does not report it."""

    def remove(self) -> None:
        """Move all processes out and remove the group."""


class Backend(ABC):
    """A source of servers and their proxy. A context manager.

    Attributes:
        name: "embedded", "docker", "external", or the name of a plugin's.
        reason: why this backend was selected, one phrase for pytest's header.
        servers: "postgres" and "redis", from `start` to `close`.
        api: the address of the Toxiproxy's HTTP API.
        directory: for logs and other files of the session. `close` deletes it.
        unsupported: the faults that it cannot inject, such as "postgres.kill", with reasons.
        shares_toxiproxy: True if that Toxiproxy may have proxies of other users. Then it must not be reset as a whole.
        proxy_prefix: a prefix for the names of its proxies.
        template_database: the name of the database from which a changed schema is restored.
        ca_file: the certificate of the authority that signs those of the proxies; None if clients use no TLS.
    """

    unsupported: Mapping[str, str] = {}  # never modified
    shares_toxiproxy: bool = False
    proxy_prefix: str = ""
    template_database: str = "resilience_baseline"
    ca_file: Path | None = None

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
        """Start everything, and return when all of it answers. After an error nothing is left running.

        Raises:
            BackendUnavailable: this machine can't run the backend.
            ServerNotReady: a server or the proxy did not answer in time.
        """

    @abstractmethod
    def close(self) -> None:
        """End everything and leave nothing behind. A second call does nothing."""

    def add_server(self, kind: Literal["postgres", "redis"], name: str) -> None:
        """Start another server, add it as `servers[name]`, and wait until it answers.

        Raises:
            SetupError: this backend can't start servers.
            ServerNotReady: the server did not answer in time.
        """
        raise SetupError(f"{self.name} has one Postgres and one Redis, and can't start {name!r}")

    def add_system(self, program: SystemProgram, name: str) -> SystemServer:
        """Start a server of another kind, add it as `servers[name]`, and wait until it answers.

        Raises:
            SetupError: this backend can't run the program.
            ServerNotReady: the server did not answer in time.
        """
        raise SetupError(
            f"{name}: the {self.name} backend can't start {program.kind}. Take --resilience-backend=docker, which runs it in a "
            f"container, or factories.tcp({name!r}, upstream=...) for a server that you run"
        )

    @abstractmethod
    def proxy_addresses(self, name: str) -> tuple[str, str]:
        """Return the `listen` and `upstream` of a new proxy in front of the server `name`. Each call returns another port."""

    def upstream_address(self, name: str) -> Address:
        """Return the present address of the server `name` for the proxy."""
        return self.servers[name].upstream_address

    def proxy_tls(self, name: str) -> Mapping[str, Mapping[str, object]] | None:
        """Return the TLS options of a proxy in front of the server `name`, or None for plain text."""
        return None

    @abstractmethod
    def client_address(self, listen: str) -> Address:
        """Return the address at which a test reaches a proxy that listens at `listen`."""

    def tcp_api(self) -> Address:
        """Return the API of the Toxiproxy for TCP systems. The first call may start it.

        Raises:
            ServerNotReady: it did not answer in time.
        """
        return self.api

    def tcp_listen_address(self) -> str:
        """Return the `listen` of a new proxy in front of a TCP system. Each call returns another port."""
        return self.proxy_addresses(next(iter(self.servers)))[0]

    def tcp_client_address(self, listen: str) -> Address:
        """Return the address at which a test reaches a proxy in front of a TCP system that listens at `listen`."""
        return self.client_address(listen)

    def connection_counts(self, proxy: str) -> ConnectionCounts | None:
        """Return the number of connections that a proxy has had, if the Toxiproxy does not count them and the backend can."""
        return None

    def proxied_clients(self, proxy: str) -> ProxiedClients | None:
        """Return the clients connected through a proxy, if the Toxiproxy does not list them and the backend can."""
        return None

    @abstractmethod
    def versions(self) -> str:
        """Return the versions of its servers, one phrase for pytest's header."""

    @abstractmethod
    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        preload: Sequence[str] = (),
    ) -> ManagedProcess:
        """Start the service under test as a process that ends with the session at the latest.

        Args:
            name: the name in messages. The log is `directory`/`name`.log.
            argv: program and arguments.
            env: its whole environment.
            cwd: its working directory; None for that of this process.
            preload: modules that a fork server imports once for all starts of a Python program. On systems other than Linux, each
                start imports them.

        Raises:
            CannotStart: the program can't be executed, or a module can't be preloaded.
        """

    def limit_memory(self, pid: int, limit_bytes: int) -> CgroupLimit:
        """Create a control group that limits the memory of its members. Beyond the limit the kernel kills one of them.

        Args:
            pid: a process. The new group is created in its control group.
            limit_bytes: memory that all members together may still allocate.

        Returns:
            The group, without members. It is removed at the end of the session at the latest.

        Raises:
            CannotInject: this platform, user or backend can't.
        """
        raise CannotInject(f"{self.name}: nothing would remove a control group after a killed session")

    @abstractmethod
    def restart_dead(self) -> None:
        """Restart the servers and the proxy that have ended.

        Servers keep their ports and their data. The proxy starts without proxies, and `api` may change.

        Raises:
            ServerNotReady: a server or the proxy did not answer in time.
        """

    @abstractmethod
    def check(self) -> None:
        """Check that servers and proxy still run if they should.

        Raises:
            BackendDied: one of them ended and no test had struck it.
        """
