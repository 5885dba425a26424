"""The target of a TCP system: any server behind a proxy, struck by the faults of the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..backends.backend import Address
from ..proxy_client.handle import ProxyHandle
from .target import NetworkFaults, StrikeRegistry
from .tcp_upstream import TcpUpstream

if TYPE_CHECKING:
    import toxiproxy


class TcpSystem:
    """A server and the proxy in front of it.

    Attributes:
        upstream: the address of the server.
        proxy: the proxy.
        address: the address of the proxy for clients.
    """

    def __init__(self, upstream: TcpUpstream, proxy: ProxyHandle, address: Address) -> None:
        self.upstream = upstream
        self.proxy = proxy
        self.address = address


class TcpTarget(NetworkFaults):
    """A TCP system behind a proxy.

    Attributes:
        host, port: the address of the proxy, to which the system under test connects.
        url: the URL through the proxy.
        upstream: the address of the server as "host:port", for connections that bypass the proxy.
    """

    def __init__(
        self, name: str, ledger: StrikeRegistry, system: TcpSystem, *, cannot: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name, ledger, cannot=cannot)
        self._tcp_system = system

    @property
    def host(self) -> str:
        """The host on which the proxy listens."""
        return self._tcp_system.address.host

    @property
    def port(self) -> int:
        """The port on which the proxy listens."""
        return self._tcp_system.address.port

    @property
    def url(self) -> str:
        """The URL through the proxy: scheme, user, path and query are those of the upstream, or else "http://host:port"."""
        return self._tcp_system.upstream.url(self.host, self.port)

    @property
    def upstream(self) -> str:
        """The address of the server, "host:port", to which the proxy connects."""
        return self._tcp_system.upstream.address

    @property
    def proxy(self) -> toxiproxy.Proxy:
        """The `toxiproxy.Proxy` of this system. Its changes are undone after the test."""
        return self._tcp_system.proxy.as_toxiproxy_python()

    @property
    def proxy_handle(self) -> ProxyHandle:
        return self._tcp_system.proxy

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.host}:{self.port} (proxy of {self.upstream})>"
