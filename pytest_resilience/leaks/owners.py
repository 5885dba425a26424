"""The owner of the client's end of a connection that a server reports.

The owner is this process, a service, or another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..stack import Stack
from ..targets import procfs
from .attribution import can_attribute, sees_client_ports
from .descriptors import Descriptor
from .socket_inode import socket_inode

if TYPE_CHECKING:
    from ..targets.server import PostgresTarget, RedisTarget

ClientEndpoints = Sequence[tuple[str, int | None]]  # address and port of a server's clients, in the order of connecting

CLIENT_GONE = "its client is gone"


class Owner(NamedTuple):
    """The owner of the client's end of a connection.

    Args:
        description: the owner in a few words; "" if that is unknown.
        descriptor: the descriptor of the connection in this process, if it has one.
    """

    description: str
    descriptor: Descriptor | None = None


class ConnectionOwners:
    """Finds the owners of connections at one moment. Each source is read when it is first needed, and once.

    Args:
        stack: the servers and services.
        descriptors: the open descriptors of this process.
        clients: the clients that each server had.
        query_clients: returns the clients that a server has now.
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
        # By the ports of both ends, because one local port may be connected to several servers at once.
        self._own = {(d.local[1], d.remote[1]): d for d in descriptors if d.remote and not d.is_unix}

    def of(self, server: str, host: str, port: int | None) -> Owner | None:
        """Return the owner of a client's end.

        Args:
            server: the name of the server.
            host: the client's address, as the server sees it.
            port: the client's port, as the server sees it; None where it has none.

        Returns:
            None if a service owns the connection, or may own it.
        """
        if port is None or port < 0 or not can_attribute(self._stack):
            return Owner("")
        target, client = self._servers[server], self.client_ports(server).get(port)
        if client is None and not sees_client_ports(self._stack):
            return self._of_unmapped(target, proxied=host == target.host)
        ends = (client, target.port) if client is not None else (port, target.server.direct_address.port)
        if ends in self._own:
            return Owner(f"held by this process (descriptor {self._own[ends].number})", self._own[ends])
        if socket_inode(target.host, *ends) in self._service_sockets or ends in self._service_ports:
            return None
        return self._of_other(ends)

    def _of_other(self, ends: tuple[int, int]) -> Owner | None:
        """Return the owner among all processes of this machine.

        Without an owner, the server has not detected the end of its client, as it works on. A killed service leaves such
        sessions too.
        """
        pid = self._processes_by_ports.get(ends)
        if pid is None:
            return None if self._stack.services else Owner(CLIENT_GONE)
        return None if pid in self._service_processes else Owner(f"held by process {pid}{_process_name(pid)}")

    def _of_unmapped(self, target: PostgresTarget | RedisTarget, *, proxied: bool) -> Owner | None:
        """Return the owner of a connection with a port that no socket of this machine has, None if a service may own it."""
        direct = target.server.direct_address.port
        may_be_service = proxied or any(remote == direct for _, remote in self._service_ports)
        return None if may_be_service and self._stack.services else Owner("")

    def client_ports(self, server: str) -> dict[int, int]:
        """Return the client's port by the port of the proxy's connection to the server."""
        if server not in self._proxied_ports:
            clients = self._clients.get(server, ())
            pairs = self._servers[server].proxy_handle.by_upstream_port(clients) or {}
            # A client that connected or left between the two queries would shift each pair by one.
            certain = sees_client_ports(self._stack) or self._query_clients(server) == clients
            self._proxied_ports[server] = pairs if certain else {}
        return self._proxied_ports[server]

    @cached_property
    def _service_processes(self) -> set[int]:
        return {pid for running in self._stack.services for pid in running.tree()}

    @cached_property
    def _service_sockets(self) -> set[int]:
        """The inodes of the services' sockets."""
        import psutil

        inodes: set[int] = set()
        for pid in self._service_processes:
            try:
                inodes |= procfs.sockets(pid)
            except (psutil.Error, OSError):  # it has ended, or belongs to another user, or the system has no /proc
                continue
        return inodes

    @cached_property
    def _service_ports(self) -> set[tuple[int, int]]:
        """The ports of both ends of the services' connections."""
        import psutil

        ports: set[tuple[int, int]] = set()
        for pid in self._service_processes:
            try:
                ports.update((c.laddr.port, c.raddr.port) for c in _tcp(psutil.Process(pid)))
            except psutil.Error:  # it has ended, or belongs to another user
                continue
        return ports

    @cached_property
    def _processes_by_ports(self) -> dict[tuple[int, int], int]:
        """The process of each connection of this machine that this user may see, by local and remote port."""
        import psutil

        try:
            connections = _tcp(psutil)
        except psutil.Error:
            return {}
        return {(c.laddr.port, c.raddr.port): c.pid for c in connections if c.pid}


def _tcp(source: Any) -> list[Any]:
    # psutil before 6.0 has another name for the connections of a process.
    connections = getattr(source, "net_connections", None) or source.connections
    return [connection for connection in connections(kind="tcp") if connection.raddr]


def _process_name(pid: int) -> str:
    import psutil

    try:
        return f", {psutil.Process(pid).name()}"
    except psutil.Error:
        return ""
