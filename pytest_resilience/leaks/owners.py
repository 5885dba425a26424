"""Who holds the other end of a connection that a server knows: the test, the service, or somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..stack import Stack
from .attribution import can_attribute, sees_client_ports
from .descriptors import Descriptor

if TYPE_CHECKING:
    from ..targets.server import PostgresTarget, RedisTarget


ClientEndpoints = Sequence[
    tuple[str, int | None]
]  # a server's clients by address and port, in the order in which they came


CLIENT_GONE = "its client is gone"


class Owner(NamedTuple):
    """Who has the client's end.

    Args:
        description: in a few words; "" where it is not clients.
        descriptor: in this process, if it is there.
    """

    description: str
    descriptor: Descriptor | None = None


class ConnectionOwners:
    """Asked when there is a question, each source once.

    Args:
        stack: whose servers and services.
        descriptors: what this process has open.
        clients: whom each server knew.
        query_clients: whom a server knows now.
    """

    def __init__(
        self,
        stack: Stack,
        descriptors: Iterable[Descriptor],
        clients: Mapping[str, ClientEndpoints],
        query_clients: Callable[[str], ClientEndpoints],
    ) -> None:
        self._stack = stack
        self._clients = clients
        self._query_clients = query_clients
        self._servers: Mapping[str, PostgresTarget | RedisTarget] = stack.targets
        self._proxied_ports: dict[str, dict[int, int]] = {}
        # By the ports of both ends: one port of ours may lead to several places at once.
        self._own = {(d.local[1], d.remote[1]): d for d in descriptors if d.remote and not d.is_unix}

    def of(self, server: str, host: str, port: int | None) -> Owner | None:
        """Who holds a client's end.

        Args:
            server: its name.
            host: the client's address, as the server knows it.
            port: its port there; None where it has none.

        Returns:
            None when it is the service's, or may be.
        """
        if port is None or port < 0 or not can_attribute(self._stack):
            return Owner("")
        target, client = self._servers[server], self.client_ports(server).get(port)
        if client is None and not sees_client_ports(self._stack):
            # A forwarded one, or one that could not be paired: no socket here has that port.
            return self._of_unmapped(target, proxied=host == target.host)
        ends = (client, target.port) if client is not None else (port, target.server.direct_address.port)
        if ends in self._own:
            return Owner(f"held by this process (descriptor {self._own[ends].number})", self._own[ends])
        if ends in self._service_ports:
            return None
        pid = self._processes_by_ports.get(ends)
        if pid is not None:
            return None if pid in self._service_processes else Owner(f"held by process {pid}{_process_name(pid)}")
        # Nobody's: the server has not noticed yet, since it works on. A service that was killed leaves such sessions too.
        return None if self._stack.services else Owner(CLIENT_GONE)

    def _of_unmapped(self, target: PostgresTarget | RedisTarget, *, proxied: bool) -> Owner | None:
        """The same, where all that can be clients is whether it may be a service's."""
        direct = target.server.direct_address.port
        may_be_service = proxied or any(remote == direct for _, remote in self._service_ports)
        return None if may_be_service and self._stack.services else Owner("")

    def client_ports(self, server: str) -> dict[int, int]:
        """The client's port by the one that the server knows."""
        if server not in self._proxied_ports:
            clients = self._clients.get(server, ())
            pairs = self._servers[server].proxy_handle.by_upstream_port(clients) or {}
            # Who came or went between the server's answer and the proxy's would have moved all others by one.
            certain = sees_client_ports(self._stack) or self._query_clients(server) == clients
            self._proxied_ports[server] = pairs if certain else {}
        return self._proxied_ports[server]

    @cached_property
    def _service_processes(self) -> set[int]:
        return {pid for running in self._stack.services for pid in running.tree()}

    @cached_property
    def _service_ports(self) -> set[tuple[int, int]]:
        """The ports of both ends of the services' connections."""
        import psutil

        ports: set[tuple[int, int]] = set()
        for pid in self._service_processes:
            try:
                ports.update((c.laddr.port, c.raddr.port) for c in _tcp(psutil.Process(pid)))
            except psutil.Error:  # it has ended meanwhile, or is not ours to look at
                continue
        return ports

    @cached_property
    def _processes_by_ports(self) -> dict[tuple[int, int], int]:
        """Process by local and remote port, of all connections of this machine that we may see."""
        import psutil

        try:
            every = _tcp(psutil)
        except psutil.Error:
            return {}
        return {(c.laddr.port, c.raddr.port): c.pid for c in every if c.pid}


def _tcp(where: Any) -> list[Any]:
    # psutil before 6.0 has another name for those of a process.
    look = getattr(where, "net_connections", None) or where.connections
    return [connection for connection in look(kind="tcp") if connection.raddr]


def _process_name(pid: int) -> str:
    import psutil

    try:
        return f", {psutil.Process(pid).name()}"
    except psutil.Error:
        return ""
