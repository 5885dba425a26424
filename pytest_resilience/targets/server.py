"""The targets Postgres and Redis: their addresses with and without the proxy, and their faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from ..admin.postgres import PostgresAdmin
from ..admin.redis import RedisAdmin
from ..backends.backend import Address, Server
from ..closing_connections import wait_until_closed
from ..faults.process import ProcessControl
from ..proxy_client.handle import ProxyHandle
from .server_faults import PostgresFaults, RedisFaults
from .statements import PostgresFaultsAfter, PostgresStatements, RedisCommands, RedisFaultsAfter
from .target import NetworkFaults, ProcessFaults, StrikeRegistry

if TYPE_CHECKING:
    import toxiproxy

SAVE_TIMEOUT = 60.0  # seconds

Admin = TypeVar("Admin", bound=PostgresAdmin | RedisAdmin)
AnyServer = TypeVar("AnyServer", bound=Server)
AnyAdmin = TypeVar("AnyAdmin")


class ServerProcesses:
    """Process control of a backend's server, for process faults."""

    can_start = True

    def __init__(self, server: Server) -> None:
        self._server = server

    def processes(self) -> list[int]:
        return self._server.processes()

    def kill(self) -> None:
        self._server.kill()

    def terminate(self) -> None:
        self._server.stop()

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    def start(self) -> None:
        self._server.start()


class RedisProcesses(ServerProcesses):
    """Process control of Redis, which can save its data before a restart."""

    def __init__(self, server: Server, admin: RedisAdmin) -> None:
        super().__init__(server)
        self._admin = admin

    def save(self) -> None:
        """Save all data to disk. Writes after that wait for the end of the server, so that no acknowledged write is lost."""
        with self._admin.client.duplicate(timeout=SAVE_TIMEOUT) as client:
            client.call("CLIENT", "PAUSE", str(int(1000 * SAVE_TIMEOUT)), "WRITE")
            try:
                client.call("SAVE")
            except BaseException:
                client.call("CLIENT", "UNPAUSE")
                raise

    def discard_snapshot(self) -> None:
        self._server.discard_snapshot()


class OnServer(ProcessFaults, Generic[AnyServer, AnyAdmin]):
    """The part of a target that is about the server of a backend, and not about the proxy."""

    _server: AnyServer
    _admin: AnyAdmin

    @property
    def port(self) -> int:
        """The port on which the proxy listens."""
        raise AssertionError(f"{type(self).__name__} has no proxy")

    @property
    def direct_url(self) -> str:
        """The URL of the server without the proxy."""
        return self._server.url(self._server.direct_address)

    @property
    def process_control(self) -> ProcessControl:
        return ServerProcesses(self._server)

    @property
    def admin(self) -> AnyAdmin:
        """The administrator of the server, which bypasses the proxy."""
        return self._admin

    @property
    def server(self) -> AnyServer:
        """The server of the backend."""
        return self._server

    def settle_connections(self) -> None:
        """Wait until the proxy and the server have closed the connections that clients have closed before."""
        wait_until_closed({self.port, self._server.direct_address.port})


class ServerTarget(NetworkFaults, OnServer[Server, Admin], Generic[Admin]):
    """A server behind a proxy.

    Attributes:
        host, port: the address of the proxy, to which the system under test connects.
        url: the URL of the server through the proxy, with credentials and database.
        direct_url: the URL of the server without the proxy, for queries of the test.
    """

    def __init__(
        self,
        name: str,
        ledger: StrikeRegistry,
        *,
        server: Server,
        proxy_handle: ProxyHandle,
        address: Address,
        admin: Admin,
        cannot: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, ledger, cannot=cannot)
        self._server = server
        self._proxy_handle = proxy_handle
        self._address = address
        self._admin = admin

    @property
    def host(self) -> str:
        """The host on which the proxy listens."""
        return self._address.host

    @property
    def port(self) -> int:
        """The port on which the proxy listens."""
        return self._address.port

    @property
    def url(self) -> str:
        """The URL of the server through the proxy."""
        return self._server.url(self._address)

    @property
    def proxy(self) -> toxiproxy.Proxy:
        """The `toxiproxy.Proxy` of this server. Its changes are undone after the test."""
        return self._proxy_handle.as_toxiproxy_python()

    @property
    def proxy_handle(self) -> ProxyHandle:
        return self._proxy_handle

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self._address} (proxy of {self._server.direct_address})>"


class PostgresTarget(PostgresFaults, ServerTarget[PostgresAdmin]):
    """Postgres behind its proxy.

    Attributes:
        kind: "postgres".
    """

    kind = "postgres"

    def on(
        self, verb: str, matching: str | None = None, nth: int | None = None, application_name: str | None = None
    ) -> PostgresStatements:
        """Select statements that come through the proxy. The methods of the result are acts, such as `error("40001")`.

        Args:
            verb: the first word of the statement, such as "commit"; "connect" for the beginning of a session; "*" for all others.
                "insert|update" has alternatives.
            matching: a part of the statement's text in any case, or a regular expression as "re:..."; None for any.
            nth: the number of the only matching statement to act on, from 1; None for all.
            application_name: a pattern for the name of the session, such as "service:*"; None for any.

        Raises:
            SetupError: a setting is invalid.
        """
        __tracebackhide__ = True
        given = {"matching": matching, "nth": nth, "application_name": application_name}
        return PostgresStatements(self, {"verb": verb} | given)

    def after(self, verb: str, n: int = 1, matching: str | None = None) -> PostgresFaultsAfter:
        """Wait for statements that come through the proxy. The methods of the result are the faults of this server.

        Args:
            verb: as for `on`.
            matching: as for `on`.
            n: the number of matching statements after which the fault strikes.

        Raises:
            SetupError: a setting is invalid.
        """
        __tracebackhide__ = True
        return PostgresFaultsAfter(self, {"verb": verb, "n": n, "matching": matching})


class RedisTarget(RedisFaults, ServerTarget[RedisAdmin]):
    """Redis behind its proxy.

    Attributes:
        kind: "redis".
    """

    kind = "redis"

    @property
    def process_control(self) -> ProcessControl:
        return RedisProcesses(self._server, self._admin)

    def on(
        self, command: str, key: str | None = None, nth: int | None = None, client_name: str | None = None
    ) -> RedisCommands:
        """Select commands that come through the proxy. The methods of the result are acts, such as `error("LOADING")`.

        Args:
            command: such as "get" or "config get"; "connect" for the first command of a connection; "*" for all commands but those
                of a driver's handshake. "get|mget" has alternatives.
            key: a pattern such as "campaign:*" for a key of the command; None for any.
            nth: the number of the only matching command to act on, from 1; None for all.
            client_name: a pattern for the name of the connection (CLIENT SETNAME); None for any.

        Raises:
            SetupError: a setting is invalid.
        """
        __tracebackhide__ = True
        return RedisCommands(self, {"verb": command, "key": key, "nth": nth, "client_name": client_name})

    def after(self, command: str, n: int = 1, key: str | None = None) -> RedisFaultsAfter:
        """Wait for commands that come through the proxy. The methods of the result are the faults of this server.

        Args:
            command: as for `on`.
            key: as for `on`.
            n: the number of matching commands after which the fault strikes.

        Raises:
            SetupError: a setting is invalid.
        """
        __tracebackhide__ = True
        return RedisFaultsAfter(self, {"verb": command, "n": n, "key": key})
