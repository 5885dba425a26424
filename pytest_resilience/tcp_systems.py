"""The TCP systems of a stack, each behind a proxy of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .backends.backend import Backend
from .backends.session.ports import with_free_port
from .errors import SetupError
from .proxy_client.client import ToxiproxyClient
from .proxy_client.handle import ProxyHandle, create_proxy
from .redaction import remember_url
from .systems.system import ReadySystem
from .targets.http_stub import HttpStub
from .targets.service_ports import ServicePorts
from .targets.service_spec import Service
from .targets.stub_process import StubProcess
from .targets.target import StrikeRegistry
from .targets.tcp import TcpSystem, TcpTarget
from .targets.tcp_upstream import TcpUpstream, read_hosts, read_upstream, upstream_of_service

REACHED_WITHIN = 5.0  # seconds for an answer of a new stub through its proxy


class TcpSystems:
    """The TCP systems of one stack.

    Args:
        backend: runs the proxies.
        hosts: the hosts beside loopback that tests may strike.
        stack_client: returns the client of the proxy that the stack uses for its servers.
    """

    def __init__(self, backend: Backend, hosts: Iterable[object], stack_client: Callable[[], ToxiproxyClient]) -> None:
        self._backend = backend
        self._hosts = read_hosts(hosts)
        self._stack_client = stack_client
        self._own_client: ToxiproxyClient | None = None
        self._systems: dict[str, TcpSystem] = {}
        self._stubs: dict[str, StubProcess] = {}
        self._ready: dict[str, ReadySystem[Any]] = {}
        self._failures: dict[str, str] = {}  # the reason for each server that could not start, by name
        self._services: dict[str, Service] = {}  # the services that are upstreams, by the name of the system

    def __contains__(self, name: object) -> bool:
        return name in self._systems

    def target(self, name: str, registry: StrikeRegistry, cannot: Mapping[str, str]) -> TcpTarget:
        """Return a system with its strikes recorded in `registry`."""
        if name in self._ready:
            return self._ready[name].target(name, registry, self._systems[name], cannot)
        if name in self._stubs:
            return HttpStub(name, registry, self._systems[name], process=self._stubs[name], cannot=cannot)
        return TcpTarget(name, registry, self._systems[name], cannot=cannot)

    def is_stub(self, name: str) -> bool:
        """True if a system is an HTTP stub."""
        return name in self._stubs

    def is_named(self, name: str) -> bool:
        """True if a system has an upstream that a user has named."""
        return name in self._systems and name not in self._stubs and name not in self._ready

    def kind(self, name: str) -> str:
        """Return the kind of the target of a system."""
        return self._ready[name].kind if name in self._ready else "tcp"

    @property
    def names(self) -> list[str]:
        """The names of all systems."""
        return list(self._systems)

    def add(self, name: str, upstream: object) -> None:
        """Create the proxy of a system, or let the existing one dial another upstream.

        Args:
            name: the name of the system, which is free.
            upstream: "host:port" or a URL.

        Raises:
            SetupError: the upstream can't be read, its host is not named, or the backend has no proxy for it.
        """
        self._set(name, read_upstream(name, upstream, self._hosts))
        self._services.pop(name, None)

    def _set(self, name: str, upstream: TcpUpstream) -> None:
        system = self._systems.get(name)
        if system is None:
            self._systems[name] = self._create(name, upstream)
        elif system.upstream != upstream:
            system.proxy.change_upstream(upstream.address)
            system.upstream = upstream

    def add_service(self, name: str, service: Service, ports: ServicePorts) -> None:
        """Create the proxy of a system that is a service of the stack. The proxy follows the port of the service.

        Args:
            name: the name of the system, which is free.
            service: the description of the service.
            ports: its ports.

        Raises:
            SetupError: the service has no port, its host is not named, or the backend has no proxy for it.
        """
        if not service.has_port:
            raise SetupError(
                f"{name}: the upstream {service!r} has no port: nothing in its command or environment is {{port}}, and its "
                "port_variable is None"
            )

        def follow(port: int) -> None:
            if self._services.get(name) is service:
                self._set(name, upstream_of_service(name, service.host, port, self._hosts))

        is_new = self._services.get(name) is not service
        self._set(name, upstream_of_service(name, service.host, ports.first, self._hosts))
        self._services[name] = service
        if is_new:
            ports.on_change(follow)

    def add_stub(self, name: str) -> None:
        """Start an HTTP stub with a proxy. Do nothing if it exists.

        Raises:
            SetupError: the Toxiproxy can't reach the stub.
            ServerNotReady: the stub did not answer in time.
        """
        if name in self._stubs:
            return
        stub = StubProcess(name, self._backend)
        stub.prepare()
        system = self._create(name, read_upstream(name, str(stub.address), ()))
        try:
            stub.command_at(system.address, "GET", "ready", within=REACHED_WITHIN)
        except OSError as error:
            system.proxy.delete()
            stub.kill()
            raise SetupError(
                f"{name}: the Toxiproxy at {self._backend.tcp_api()} can't reach the stub at {stub.address} "
                f"({type(error).__name__}): a stub listens on the loopback of this machine, and that Toxiproxy runs elsewhere"
            ) from None
        self._systems[name], self._stubs[name] = system, stub

    def add_ready(self, name: str, system: ReadySystem[Any]) -> None:
        """Start a server of the backend with a proxy.

        Args:
            name: the name of the system, which is free.
            system: the server, not yet started.

        Raises:
            SetupError: the backend can't run it.
            ServerNotReady: the server did not answer in time.
        """
        if name in self._failures:
            raise SetupError(self._failures[name])
        try:
            system.start(self._backend, name)
        except SetupError as failure:
            self._failures[name] = str(failure)
            raise
        remember_url(system.server.url(system.server.direct_address))
        self._systems[name], self._ready[name] = self._create(name, system.upstream), system

    def take_baseline(self) -> None:
        """Take the state of each server in which each test begins."""
        for system in self._ready.values():
            system.admin.take_baseline()

    def clean(self, struck: Iterable[str] = ()) -> None:
        """Bring each server into the state in which each test begins.

        Args:
            struck: the names of the systems that faults of the session strike.
        """
        for name, system in self._ready.items():
            system.clean(settings=name not in struck)

    def prepare_test(self, struck: Iterable[str] = ()) -> None:
        """Give each server and each stub the state in which each test begins.

        Args:
            struck: the names of the systems that faults of the session strike.
        """
        self.clean(struck)
        for stub in self._stubs.values():
            stub.prepare()

    def check(self) -> None:
        """Check that the stubs still run.

        Raises:
            BackendDied: one has ended.
        """
        for stub in self._stubs.values():
            stub.check()

    def logs(self) -> dict[str, str]:
        """Return the requests of each stub since the test began, as text."""
        return {name: stub.log_text() for name, stub in self._stubs.items()}

    def _create(self, name: str, upstream: TcpUpstream) -> TcpSystem:
        client = self._client()

        def attempt(_: int) -> ProxyHandle:
            listen = self._backend.tcp_listen_address()
            return create_proxy(client, f"{self._backend.proxy_prefix}{name}", listen, upstream.address)

        proxy = with_free_port(attempt, taken=SetupError)
        return TcpSystem(upstream, proxy, self._backend.tcp_client_address(proxy.listen))

    def _client(self) -> ToxiproxyClient:
        """Return the client of the proxy of TCP systems, which is that of the servers on most backends."""
        api = self._backend.tcp_api()
        if api == self._backend.api:
            return self._stack_client()
        if self._own_client is None:
            self._own_client = ToxiproxyClient(*api, check=self._backend.check)
        return self._own_client

    def reset(self) -> None:
        """Enable the proxies and remove their toxics."""
        for system in self._systems.values():
            system.proxy.reset()

    def restore(self) -> None:
        """Create the proxies anew on their ports, after the process that had them has ended."""
        self.close()
        for system in self._systems.values():
            system.proxy.create_again(self._client(), system.upstream.address)

    @property
    def descriptors(self) -> set[int]:
        """The descriptors of the plugin's own connections to the proxy of TCP systems."""
        return self._own_client.descriptors if self._own_client is not None else set()

    def close(self) -> None:
        """Close the connection to the proxy."""
        if self._own_client is not None:
            self._own_client.close()
            self._own_client = None
