"""The base classes of systems: a server that a backend runs, its clean state, and its target."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from ..backends.backend import Backend, SystemProgram, SystemServer
from ..targets.server import OnServer
from ..targets.target import StrikeRegistry
from ..targets.tcp import TcpSystem, TcpTarget
from ..targets.tcp_upstream import TcpUpstream

Admin = TypeVar("Admin", bound="SystemAdmin")
Program = TypeVar("Program", bound=SystemProgram)


class SystemAdmin(ABC):
    """The administrator of a server, around the proxy.

    Attributes:
        program: the program of the server, which has the passwords.
    """

    program: SystemProgram

    @abstractmethod
    def take_baseline(self) -> None:
        """Take the state in which each test begins."""

    @abstractmethod
    def clean(self, *, settings: bool = True) -> None:
        """Bring the server into the state in which each test begins.

        Args:
            settings: False while a fault of the session has changed its settings.
        """


class SystemTarget(TcpTarget, OnServer[SystemServer, Admin], Generic[Admin]):
    """A server that the backend runs, behind a proxy.

    Attributes:
        kind: such as "mysql".
        host, port: the address of the proxy, to which the system under test connects.
        url: the URL of the server through the proxy, with credentials.
        direct_url: the URL of the server without the proxy, for the test itself.
        user: of the URL, for clients that take no URL.
    """

    kind: str
    user: str

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
    def password(self) -> str:
        """The password of the user."""
        return self._admin.program.password


class ReadySystem(ABC, Generic[Program]):
    """A server of one kind with its administrator.

    Args:
        program: the program to run.

    Attributes:
        target_type: the class of its targets.
        server: the server.
        admin: the administrator.
    """

    target_type: type[SystemTarget[Any]]
    server: SystemServer
    admin: SystemAdmin

    def __init__(self, program: Program) -> None:
        self.program = program

    @abstractmethod
    def create_admin(self) -> SystemAdmin:
        """Return the administrator of the new server, which has the schema or whatever else comes before the baseline."""

    @property
    def kind(self) -> str:
        """The kind of its target, such as "mysql"."""
        return self.target_type.kind

    def target(
        self, name: str, registry: StrikeRegistry, system: TcpSystem, cannot: Mapping[str, str]
    ) -> SystemTarget[Any]:
        """Return the target, with its strikes recorded in `registry`."""
        return self.target_type(name, registry, system, server=self.server, admin=self.admin, cannot=cannot)

    def start(self, backend: Backend, name: str) -> None:
        """Start the server.

        Raises:
            SetupError: the backend can't run it.
            ServerNotReady: it did not answer in time.
        """
        self.server = backend.add_system(self.program, name)
        try:
            self.admin = self.create_admin()
            self.admin.take_baseline()
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
