"""The targets Postgres and Redis: their addresses with and without the proxy, and their faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from ..admin.postgres import PostgresAdmin
from ..admin.redis import RedisAdmin
from ..backends.backend import Address, Server
from ..closing_connections import wait_until_closed
from ..faults.fault import Strike
from ..faults.postgres_server import Crash, HoldLocks, ReadOnly, SlowQueries, Starve, TakeConnections, TerminateBackends
from ..faults.process import ProcessControl, Restart
from ..faults.redis_server import BusyScript, Flush, Loading, MaxClients, Oom, Readonly
from ..proxy_client.handle import ProxyHandle
from .fault_method import fault_method
from .target import NetworkFaults, ProcessFaults, StrikeRegistry

if TYPE_CHECKING:
    import toxiproxy

SAVE_TIMEOUT = 60.0  # seconds

Admin = TypeVar("Admin", bound=PostgresAdmin | RedisAdmin)


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


class ServerTarget(NetworkFaults, ProcessFaults, Generic[Admin]):
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
    def direct_url(self) -> str:
        """The URL of the server without the proxy."""
        return self._server.url(self._server.direct_address)

    @property
    def proxy(self) -> toxiproxy.Proxy:
        """The `toxiproxy.Proxy` of this server. Its changes are undone after the test."""
        return self._proxy_handle.as_toxiproxy_python()

    @property
    def proxy_handle(self) -> ProxyHandle:
        return self._proxy_handle

    @property
    def process_control(self) -> ProcessControl:
        return ServerProcesses(self._server)

    @property
    def admin(self) -> Admin:
        """The admin client of the server, which bypasses the proxy."""
        return self._admin

    @property
    def server(self) -> Server:
        """The server of the backend."""
        return self._server

    def settle_connections(self) -> None:
        """Wait until the proxy and the server have closed the connections that clients have closed before."""
        wait_until_closed({self.port, self._server.direct_address.port})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self._address} (proxy of {self._server.direct_address})>"


class PostgresTarget(ServerTarget[PostgresAdmin]):
    """Postgres behind its proxy."""

    starve = fault_method(Starve)
    take_connections = fault_method(TakeConnections)

    def hold_locks(self, *tables: str) -> Strike:
        """Lock tables exclusively, as a migration does. Without names, lock all tables."""
        return HoldLocks(tables).strike(self)

    def slow_queries(self, seconds: float, *tables: str) -> Strike:
        """Make each statement on the named tables (default: all) take up to `seconds` longer in the server."""
        return SlowQueries(seconds, tables).strike(self)

    terminate_backends = fault_method(TerminateBackends)
    crash = fault_method(Crash)
    read_only = fault_method(ReadOnly)


class RedisTarget(ServerTarget[RedisAdmin]):
    """Redis behind its proxy."""

    @property
    def process_control(self) -> ProcessControl:
        return RedisProcesses(self._server, self._admin)

    def restart(self, data: str | None = None) -> Strike:
        """Stop Redis in order and start it again, before the call returns.

        Args:
            data: "kept" or "lost"; None for the default of the server, which is "lost" for the embedded Redis.
        """
        return Restart(data).strike(self)

    oom = fault_method(Oom)
    readonly = fault_method(Readonly)
    loading = fault_method(Loading)
    busy_script = fault_method(BusyScript)
    max_clients = fault_method(MaxClients)
    flush = fault_method(Flush)
