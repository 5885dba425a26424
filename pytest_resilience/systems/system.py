"""The base classes of systems: a server that a backend runs, its clean state, and its target."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from ..backends.backend import Backend, SystemProgram, SystemServer
from ..closing_connections import wait_until_closed
from ..faults.process import ProcessControl
from ..targets.server import ServerProcesses
from ..targets.target import ProcessFaults, StrikeRegistry
from ..targets.tcp import TcpSystem, TcpTarget
from ..targets.tcp_upstream import TcpUpstream

Admin = TypeVar("Admin", bound="SystemAdmin")


class SystemAdmin(ABC):
    """The administrator of a server, around the proxy."""

    @abstractmethod
    def take_baseline(self) -> None:
        """Take the state in which each test begins."""

    @abstractmethod
    def clean(self, *, settings: bool = True) -> None:
        """Bring the server into the state in which each test begins.

        Args:
            settings: False while a fault of the session has changed its settings.
        """


class SystemTarget(TcpTarget, ProcessFaults, Generic[Admin]):
    """A server that the backend runs, behind a proxy.

    Attributes:
        host, port: the address of the proxy, to which the system under test connects.
        url: the URL of the server through the proxy, with credentials.
        direct_url: the URL of the server without the proxy, for the test itself.
    """

    def __init__(
        self,
        name: str,
        ledger: StrikeRegistry,
        system: TcpSystem,
        *,
        server: SystemServer,
        admin: Admin,
        cannot: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, ledger, system, cannot=cannot)
        self._server = server
        self._admin = admin

    @property
    def direct_url(self) -> str:
        """The URL of the server without the proxy."""
        return self._server.url(self._server.direct_address)

    @property
    def process_control(self) -> ProcessControl:
        return ServerProcesses(self._server)

    @property
    def admin(self) -> Admin:
        """The administrator of the server, which bypasses the proxy."""
        return self._admin

    @property
    def server(self) -> SystemServer:
        """The server of the backend."""
        return self._server

    def settle_connections(self) -> None:
        """Wait until the proxy and the server have closed the connections that clients have closed before."""
        wait_until_closed({self.port, self._server.direct_address.port})


class ReadySystem(ABC):
    """A server of one kind with its administrator.

    Attributes:
        kind: the kind of its target, such as "mysql".
        server: the server.
        admin: the administrator.
    """

    kind: str
    server: SystemServer
    admin: Any

    @abstractmethod
    def program(self) -> SystemProgram:
        """Return the program to run."""

    @abstractmethod
    def begin(self) -> None:
        """Create the administrator and the state in which tests begin, on the new server."""

    @abstractmethod
    def target(
        self, name: str, registry: StrikeRegistry, system: TcpSystem, cannot: Mapping[str, str]
    ) -> SystemTarget[Any]:
        """Return the target, with its strikes recorded in `registry`."""

    def start(self, backend: Backend, name: str) -> None:
        """Start the server.

        Raises:
            SetupError: the backend can't run it.
            ServerNotReady: it did not answer in time.
        """
        self.server = backend.add_system(self.program(), name)
        try:
            self.begin()
        except BaseException:
            self.server.kill()
            raise

    @property
    def upstream(self) -> TcpUpstream:
        """The address that the proxy dials, with the form of the URL."""
        address = self.server.addresses[0]
        parts = urlsplit(self.server.url(address))
        userinfo = parts.netloc.rpartition("@")[0]
        return TcpUpstream(address.host, address.port, parts.scheme, f"{userinfo}@" if userinfo else "", parts.path)

    def clean(self, *, settings: bool) -> None:
        """Bring the server into the state in which each test begins. It starts if a test has left it dead.

        Args:
            settings: False while a fault of the session strikes it, which may have killed or stopped it.
        """
        if settings:
            self.server.resume()
            self.server.start()
            self.admin.clean()
        elif self.server.alive():
            with contextlib.suppress(OSError):
                self.admin.clean(settings=False)
