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


Known = Sequence[tuple[str, int | None]]  # a server's clients by address and port, in the order in which they came


GONE = "its client is gone"


class Owner(NamedTuple):
    """Who has the client's end.

    Args:
        told: in a few words; "" where it is not known.
        descriptor: in this process, if it is there.
    """

    told: str
    descriptor: Descriptor | None = None


class ConnectionOwners:
    """Asked when there is a question, each source once.

    Args:
        stack: whose servers and services.
        descriptors: what this process has open.
        known: whom each server knew.
        ask: whom a server knows now.
    """

    def __init__(
        self,
        stack: Stack,
        descriptors: Iterable[Descriptor],
        known: Mapping[str, Known],
        ask: Callable[[str], Known],
    ) -> None:
        self._stack = stack
        self._known = known
        self._ask = ask
        self._servers: Mapping[str, PostgresTarget | RedisTarget] = stack.systems
        self._through_the_proxy: dict[str, dict[int, int]] = {}
        # By the ports of both ends: one port of ours may lead to several places at once.
        self._mine = {(d.local[1], d.remote[1]): d for d in descriptors if d.remote and not d.is_unix}

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
        target, client = self._servers[server], self.through_the_proxy(server).get(port)
        if client is None and not sees_client_ports(self._stack):
            # A forwarded one, or one that could not be paired: no socket here has that port.
            return self._of_somebody(target, through_the_proxy=host == target.host)
        ends = (client, target.port) if client is not None else (port, target.server.direct.port)
        if ends in self._mine:
            return Owner(f"held by this process (descriptor {self._mine[ends].number})", self._mine[ends])
        if ends in self._of_services:
            return None
        pid = self._elsewhere.get(ends)
        if pid is not None:
            return None if pid in self._service_processes else Owner(f"held by process {pid}{_called(pid)}")
        # Nobody's: the server has not noticed yet, since it works on. A service that was killed leaves such sessions too.
        return None if self._stack.services else Owner(GONE)

    def _of_somebody(self, target: PostgresTarget | RedisTarget, *, through_the_proxy: bool) -> Owner | None:
        """The same, where all that can be known is whether it may be a service's."""
        direct = target.server.direct.port
        takes_it = through_the_proxy or any(remote == direct for _, remote in self._of_services)
        return None if takes_it and self._stack.services else Owner("")

    def through_the_proxy(self, server: str) -> dict[int, int]:
        """The client's port by the one that the server knows."""
        if server not in self._through_the_proxy:
            known = self._known.get(server, ())
            pairs = self._servers[server].proxy_handle.by_upstream_port(known) or {}
            # Who came or went between the server's answer and the proxy's would have moved all others by one.
            certain = sees_client_ports(self._stack) or self._ask(server) == known
            self._through_the_proxy[server] = pairs if certain else {}
        return self._through_the_proxy[server]

    @cached_property
    def _service_processes(self) -> set[int]:
        return {pid for running in self._stack.services for pid in running.tree()}

    @cached_property
    def _of_services(self) -> set[tuple[int, int]]:
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
    def _elsewhere(self) -> dict[tuple[int, int], int]:
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


def _called(pid: int) -> str:
    import psutil

    try:
        return f", {psutil.Process(pid).name()}"
    except psutil.Error:
        return ""
