"""Postgres, Redis and the servers of other systems in containers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ...clients.receive import receive
from ...wire import postgres as postgres_wire
from ...wire import redis as redis_wire
from ..backend import Address, Server, SystemProgram, SystemServer
from ..managed_server import connect_and_send
from ..postgres_url import postgres_url
from ..server_settings import DATABASE, POSTGRES_SETTINGS
from .container import Container, ContainerContext

POSTGRES_PORT = 5432
REDIS_PORT = 6379
INITDB_ARGS = "--no-sync -E UTF8 --no-locale"
IMAGE_SETTINGS = ("listen_addresses", "unix_socket_directories")  # the image decides how its server is reached
# All users can read a command line, so the server reads the password from its standard input, a here-document.
# The fault `loading` needs DEBUG, which must be enabled from version 7 on. Before, there is no such option.
REDIS_SCRIPT = """case $(redis-server --version) in *v=[1-6].*) ;; *) set -- "$@" --enable-debug-command yes ;; esac
exec redis-server - "$@" <<EOF
requirepass $RESILIENCE_PASSWORD
EOF"""


class ContainerServer(Container, Server):
    """A server in a container, with a port that the engine publishes on loopback."""

    port: int
    on_move: Callable[[Address, Address], None] | None = None
    """Called after a restart that changed the address for the proxy, with both addresses. None if the proxy uses the name."""

    def __init__(self, image: str, context: ContainerContext, *, password: str, name: str = "") -> None:
        super().__init__(name or self.kind, image, context)
        self._password = password
        self.version = ""

    def kill_session(self, pid: int) -> None:
        done = self._call_engine(
            lambda: self._docker_container.exec_run(["sh", "-c", f"kill -KILL {int(pid)}"], user="root")
        )
        if done.exit_code:
            super().kill_session(pid)

    def ports(self) -> list[int]:
        return [self.port]

    def start(self) -> None:
        before = self.private_address
        super().start()
        if self.on_move is not None and self.private_address != before:
            self.on_move(before, self.private_address)

    @property
    def private_address(self) -> Address:
        """The address on the private network, which may change when the container starts again."""
        return Address(self.private_host, self.port)

    @property
    def direct_address(self) -> Address:  # type: ignore[override]  # read-only here, as it should be
        return self.published_address(self.port)

    @property
    def upstream_address(self) -> Address:  # type: ignore[override]
        return Address(self.name, self.port)


class PostgresContainer(ContainerServer):
    """A Postgres server of an image, with settings for frequent kills."""

    kind = "postgres"
    port = POSTGRES_PORT
    stop_signal = "SIGINT"  # disconnect the clients and write everything to disk; SIGTERM would wait for the clients

    def command(self) -> list[str]:
        settings = {name: value for name, value in POSTGRES_SETTINGS.items() if name not in IMAGE_SETTINGS}
        return ["postgres", *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]

    def environment(self) -> Mapping[str, str]:
        return {"POSTGRES_PASSWORD": self._password, "POSTGRES_DB": DATABASE, "POSTGRES_INITDB_ARGS": INITDB_ARGS}

    def url(self, address: Address) -> str:
        return postgres_url("postgres", self._password, address, DATABASE)

    def is_ready(self) -> bool:
        """True if the server accepts a session. It does not listen while the image creates its data directory."""
        with connect_and_send(
            self.published_address(self.port), postgres_wire.startup("postgres", DATABASE)
        ) as connection:
            message = receive(connection, postgres_wire.first_message)
        if message is None or postgres_wire.startup_status(message) != "accepting":
            return False
        if not self.version:
            found = re.search(r"starting PostgreSQL (\S+)", self.log_text())
            self.version = found[1] if found else "?"
        return True


class RedisContainer(ContainerServer):
    """A Redis server. It saves nothing on disk, so it starts empty after a kill, as a cache does."""

    kind = "redis"
    port = REDIS_PORT

    def command(self) -> list[str]:
        settings = {"port": self.port, "save": "", "appendonly": "no", "hz": 100, "protected-mode": "no"}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return ["sh", "-c", REDIS_SCRIPT, "redis-server", *words]

    def discard_snapshot(self) -> None:
        self._call_engine(
            lambda: self._docker_container.exec_run(["sh", "-c", "rm -f dump.rdb"])
        )  # in the image's working directory

    def environment(self) -> Mapping[str, str]:
        return {"RESILIENCE_PASSWORD": self._password}

    def url(self, address: Address) -> str:
        return f"redis://:{self._password}@{address}/0"

    def is_ready(self) -> bool:
        """True if the server accepts the password and reports its version."""
        words = redis_wire.encode_command("AUTH", self._password) + redis_wire.encode_command("INFO", "server")
        with connect_and_send(self.published_address(self.port), words) as connection:
            replies = receive(connection, redis_wire.first_two_replies)
        if replies is None or not replies[0].startswith(b"+OK"):
            return False
        fields = redis_wire.parse_info(replies[1])
        valkey = fields.get("valkey_version")
        self.version = f"{valkey} (valkey)" if valkey else fields.get("redis_version", "")
        return bool(self.version)


class SystemContainer(ContainerServer, SystemServer):
    """A server of another system in a container.

    Its proxy runs on this machine and dials the published port, which refuses connections while the container does not run. Its address
    on the private network would not answer at all.

    Args:
        program: its description.
        context: the session.
        name: its name on the private network and in messages.
    """

    def __init__(self, program: SystemProgram, context: ContainerContext, name: str) -> None:
        self.kind = program.kind
        self.port = program.ports[0]
        self.stop_signal = program.stop_signal
        self._program = program
        super().__init__(program.image, context, password="", name=name)

    def ports(self) -> list[int]:
        return [*self._program.ports]

    def command(self) -> list[str]:
        return self._program.command()

    def environment(self) -> Mapping[str, str]:
        return self._program.environment()

    def url(self, address: Address) -> str:
        return self._program.url(address)

    @property
    def addresses(self) -> list[Address]:  # type: ignore[override]  # read-only here, as it should be
        return [self.published_address(port) for port in self._program.ports]

    def is_ready(self) -> bool:
        """True if the server reports its version."""
        self.version = self._program.version_at(self.addresses) or ""
        return bool(self.version)
