"""Postgres and Redis as a test sees them: through the proxy, around it, and struck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from ..admin.postgres import PostgresAdmin
from ..admin.redis import RedisAdmin
from ..backends.backend import Address, Server
from ..faults.fault import Strike
from ..faults.postgres_server import Crash, HoldLocks, ReadOnly, SlowQueries, Starve, TakeConnections, TerminateBackends
from ..faults.process import ProcessControl, Restart
from ..faults.redis_server import BusyScript, Flush, Loading, MaxClients, Oom, Readonly
from ..proxy_client.handle import ProxyHandle
from .fault_method import fault_method
from .target import NetworkFaults, ProcessFaults, StrikeRegistry

if TYPE_CHECKING:
    import toxiproxy

Admin = TypeVar("Admin", bound=PostgresAdmin | RedisAdmin)


class ServerProcesses:
    """A backend's server, with the verbs that process faults use."""

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
    """A Redis can write its data down."""

    def __init__(self, server: Server, admin: RedisAdmin) -> None:
        super().__init__(server)
        self._admin = admin

    def save(self) -> None:
        self._admin.client.call("SAVE")

    def discard_snapshot(self) -> None:
        self._server.discard_snapshot()


class ServerTarget(NetworkFaults, ProcessFaults, Generic[Admin]):
    """A server behind a proxy.

    Attributes:
        host, port: the proxy's, where the system under test connects.
        url: the same with credentials and database.
        direct_url: around the proxy, for a test's own questions.
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
        """Where the proxy listens."""
        return self._address.host

    @property
    def port(self) -> int:
        """The port that the proxy listens on."""
        return self._address.port

    @property
    def url(self) -> str:
        """The server, through the proxy."""
        return self._server.url(self._address)

    @property
    def direct_url(self) -> str:
        """The server, around the proxy."""
        return self._server.url(self._server.direct_address)

    @property
    def proxy(self) -> toxiproxy.Proxy:
        """toxiproxy-python's object for this proxy; what it does is undone after the test."""
        return self._proxy_handle.as_toxiproxy_python()

    @property
    def proxy_handle(self) -> ProxyHandle:
        return self._proxy_handle

    @property
    def process_control(self) -> ProcessControl:
        return ServerProcesses(self._server)

    @property
    def admin(self) -> Admin:
        """Our own door to the server, around the proxy."""
        return self._admin

    @property
    def server(self) -> Server:
        """The backend's server."""
        return self._server

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self._address} (proxy of {self._server.direct_address})>"


class PostgresTarget(ServerTarget[PostgresAdmin]):
    """Postgres behind its proxy."""

    starve = fault_method(Starve)
    take_connections = fault_method(TakeConnections)

    def hold_locks(self, *tables: str) -> Strike:
        """Hold tables for oneself, as a migration does; none named: all of them."""
        return HoldLocks(tables).strike(self)

    def slow_queries(self, seconds: float, *tables: str) -> Strike:
        """Let each statement on tables (none named: all) take up to `seconds` longer, in the server itself."""
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
        """Stop it in good order and start it again, before the call returns; with its data "kept", or "lost" (as by default)."""
        return Restart(data).strike(self)

    oom = fault_method(Oom)
    readonly = fault_method(Readonly)
    loading = fault_method(Loading)
    busy_script = fault_method(BusyScript)
    max_clients = fault_method(MaxClients)
    flush = fault_method(Flush)
