"""The servers of one backend behind proxies, for one session or one xdist worker, and the state in which each test begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .admin.postgres import PostgresAdmin
from .admin.redis import RedisAdmin
from .backends.backend import Address, Backend, Server
from .backends.session.ports import with_free_port
from .clock import SYSTEM
from .errors import BackendDied, SetupError
from .faults.fault import Strike
from .proxy_client.client import ToxiproxyClient
from .proxy_client.handle import ProxyHandle, create_proxy
from .redaction import remember_url
from .step_faults import is_target_name
from .systems.system import ReadySystem
from .targets.http_stub import HttpStub
from .targets.server import PostgresTarget, RedisTarget
from .targets.service import RunningService
from .targets.service_ports import ServicePorts
from .targets.service_spec import Service
from .targets.session_services import SessionServices
from .targets.starting import start_together
from .targets.target import StrikeRegistry
from .targets.tcp import TcpTarget
from .tcp_systems import TcpSystems
from .wording import no_attribute

if TYPE_CHECKING:
    import toxiproxy

    from .admin.schema_init import Init
    from .systems.mysql.target import MysqlTarget
    from .systems.rabbitmq.target import RabbitmqTarget

ServerKind = Literal["postgres", "redis"]


class _TargetArguments(TypedDict):
    server: Server
    proxy_handle: ProxyHandle
    address: Address
    cannot: dict[str, str]


Admin = TypeVar("Admin", PostgresAdmin, RedisAdmin)
AnyTcpTarget = TypeVar("AnyTcpTarget", bound=TcpTarget)


class Stack:
    """Postgres and Redis behind a Toxiproxy.

    Args:
        backend: runs the servers and the proxies.
        seed: the seed of the run.
        hosts: the hosts beside loopback that may be upstreams of TCP systems.

    Attributes:
        backend: the name of the backend, such as "embedded".
        seed: the seed of the run.
        postgres, redis: the servers. Their faults heal at the end of the session at the latest.
    """

    def __init__(self, backend: Backend, seed: int, hosts: Iterable[object] = ()) -> None:
        self._backend = backend
        self._tcp = TcpSystems(backend, hosts, lambda: self.proxy_client)
        self.backend = backend.name
        self.seed = seed
        self._registry = StrikeRegistry()
        self._session_services = SessionServices(backend)
        self._has_baseline = False
        self._extra_admins: dict[str, tuple[ServerKind, PostgresAdmin | RedisAdmin]] = {}
        self._proxy_client: ToxiproxyClient | None = None
        self._log_begins: dict[str, int] = {}
        self._test = ""  # the test for which the stack was prepared last
        try:
            backend.start()
            for server in backend.servers.values():
                remember_url(server.url(server.direct_address))
            self._proxy_client = self._connect_proxy(backend)
            self._proxies = {name: self._create_proxy(name) for name in ("postgres", "redis")}
            self._postgres_admin = PostgresAdmin(backend.servers["postgres"], template=backend.template_database)
            self._redis_admin = RedisAdmin(backend.servers["redis"])
            self.postgres, self.redis = self.create_targets(self._registry)
        except BaseException:
            backend.close()
            raise

    @staticmethod
    def _connect_proxy(backend: Backend) -> ToxiproxyClient:
        return ToxiproxyClient(
            *backend.api,
            connection_counts=backend.connection_counts,
            proxied_clients=backend.proxied_clients,
            check=backend.check,
        )

    def _create_proxy(self, name: str) -> ProxyHandle:
        def create(_: int) -> ProxyHandle:
            listen, upstream = self._backend.proxy_addresses(name)
            return create_proxy(self.proxy_client, f"{self._backend.proxy_prefix}{name}", listen, upstream)

        proxy = with_free_port(create, taken=SetupError)
        self._configure_proxy(name, proxy)
        return proxy

    def _configure_proxy(self, name: str, proxy: ProxyHandle) -> None:
        """Give a new proxy the settings of our own proxy."""
        proxy.set_protocol(self._backend.servers[name].kind)
        if (tls := self._backend.proxy_tls(name)) is not None:
            proxy.set_tls(tls)

    @property
    def ca_file(self) -> str | None:
        """The path of a PEM file with the certificate of the authority that signs those of the proxies, or None without TLS."""
        return str(self._backend.ca_file) if self._backend.ca_file is not None else None

    @property
    def toxiproxy(self) -> toxiproxy.Toxiproxy:
        """A toxiproxy-python client of this stack's proxy."""
        return self.proxy_client.as_toxiproxy_python()

    @property
    def proxy_client(self) -> ToxiproxyClient:
        """The client of the proxy's API."""
        assert self._proxy_client is not None
        return self._proxy_client

    @property
    def registry(self) -> StrikeRegistry:
        """The registry of the strikes of the session."""
        return self._registry

    @property
    def backend_for_processes(self) -> Backend:
        """The backend, which also runs processes other than servers."""
        return self._backend

    def create_targets(self, registry: StrikeRegistry) -> tuple[PostgresTarget, RedisTarget]:
        """Return Postgres and Redis with their strikes recorded in `registry`."""
        postgres = PostgresTarget(
            "postgres", registry, admin=self._postgres_admin, **self._target_arguments("postgres", "postgres")
        )
        return postgres, RedisTarget(
            "redis", registry, admin=self._redis_admin, **self._target_arguments("redis", "redis")
        )

    def _target_arguments(self, kind: ServerKind, name: str) -> _TargetArguments:
        """Return the arguments that both kinds of target take."""
        proxy = self._proxies[name]
        return {
            "server": self._backend.servers[name],
            "proxy_handle": proxy,
            "address": self._backend.client_address(proxy.listen),
            "cannot": self._unsupported(kind, name),
        }

    def _unsupported(self, kind: str, name: str) -> dict[str, str]:
        """Return the faults of a target that the backend can't inject, each with the reason."""
        faults = ((fault.partition("."), reason) for fault, reason in self._backend.unsupported.items())
        return {
            fault: f"{self.backend} cannot {name}.{fault}: {reason}"
            for (owner, _, fault), reason in faults
            if owner == kind
        }

    def add_postgres(
        self, name: str, init: Init | None = None, *, registry: StrikeRegistry | None = None
    ) -> PostgresTarget:
        """Return another Postgres behind its own proxy. The first call with a name starts it.

        Args:
            name: the name, such as "replica", with which the labels of its faults begin.
            init: SQL, files with SQL, or functions that take its URL, which make its schema once; None for none.
            registry: the registry that records its strikes; None for that of the session.

        Raises:
            SetupError: the name is taken or malformed, or the backend can't run another server.
        """
        self._add_server("postgres", name, init)
        target = self.extra_target(name, registry or self._registry)
        assert isinstance(target, PostgresTarget)
        return target

    def add_redis(self, name: str, *, registry: StrikeRegistry | None = None) -> RedisTarget:
        """Return another Redis behind its own proxy, as `add_postgres` does."""
        self._add_server("redis", name, None)
        target = self.extra_target(name, registry or self._registry)
        assert isinstance(target, RedisTarget)
        return target

    def add_tcp(self, name: str, upstream: str | Service, *, registry: StrikeRegistry | None = None) -> TcpTarget:
        """Return a TCP system behind its own proxy. The first call with a name creates the proxy.

        Args:
            name: the name, such as "payments", with which the labels of its faults begin.
            upstream: "host:port", or a URL such as "http://127.0.0.1:9000/v1", as the proxy reaches it. Hosts other than loopback
                must be named by `resilience_hosts`. Or the description of a service that `resilience_service` or a factory starts,
                which need not have started. Another upstream in a later call replaces it.
            registry: the registry that records its strikes; None for that of the session.

        Raises:
            SetupError: the name is taken or malformed, the upstream can't be read, or its host is not named.
        """
        if not self._tcp.is_named(name):
            self._check_server_name(name)
        if isinstance(upstream, Service):
            self._tcp.add_service(name, upstream, self.service_ports(upstream))
        else:
            self._tcp.add(name, upstream)
        return self._tcp_target(TcpTarget, name, registry)

    def add_http_stub(self, name: str, *, registry: StrikeRegistry | None = None) -> HttpStub:
        """Return an HTTP server that tests script, behind its own proxy. The first call with a name starts it.

        Args:
            name: the name, such as "payments", with which the labels of its faults begin.
            registry: the registry that records its strikes; None for that of the session.

        Raises:
            SetupError: the name is taken or malformed, or the Toxiproxy of the external backend can't reach this machine.
            ServerNotReady: the stub did not answer in time.
        """
        if not self._tcp.is_stub(name):
            self._check_server_name(name)
        self._tcp.add_stub(name)
        return self._tcp_target(HttpStub, name, registry)

    def add_mysql(
        self,
        name: str,
        init: Init | None = None,
        *,
        image: str | None = None,
        registry: StrikeRegistry | None = None,
    ) -> MysqlTarget:
        """Return a MySQL behind its own proxy. The first call with a name starts it.

        Args:
            name: the name, such as "mysql", with which the labels of its faults begin.
            init: SQL, files with SQL, or functions that take its URL, which make its schema once; None for none.
            image: the image of the docker backend; None for mysql:8.4.
            registry: the registry that records its strikes; None for that of the session.

        Raises:
            SetupError: the name is taken or malformed, the schema could not be made, or the backend can't run a MySQL.
            ServerNotReady: the server did not answer in time.
        """
        from .systems.mysql.program import MYSQL_IMAGE  # imported late, as few sessions have one
        from .systems.mysql.target import MysqlSystem, MysqlTarget

        self._add_ready(name, "mysql", lambda: MysqlSystem(image or MYSQL_IMAGE, init))
        return self._tcp_target(MysqlTarget, name, registry)

    def add_mariadb(
        self,
        name: str,
        init: Init | None = None,
        *,
        image: str | None = None,
        registry: StrikeRegistry | None = None,
    ) -> MysqlTarget:
        """Return a MariaDB behind its own proxy, as `add_mysql` does."""
        from .systems.mysql.program import MARIADB_IMAGE

        return self.add_mysql(name, init, image=image or MARIADB_IMAGE, registry=registry)

    def add_rabbitmq(
        self, name: str, *, image: str | None = None, registry: StrikeRegistry | None = None
    ) -> RabbitmqTarget:
        """Return a RabbitMQ behind its own proxy. The first call with a name starts it.

        Args:
            name: the name, such as "rabbitmq", with which the labels of its faults begin.
            image: the image of the docker backend; None for rabbitmq:4.
            registry: the registry that records its strikes; None for that of the session.

        Raises:
            SetupError: the name is taken or malformed, or the backend can't run a RabbitMQ.
            ServerNotReady: the server did not answer in time.
        """
        from .systems.rabbitmq.program import RABBITMQ_IMAGE
        from .systems.rabbitmq.target import RabbitmqSystem, RabbitmqTarget

        self._add_ready(name, "rabbitmq", lambda: RabbitmqSystem(image or RABBITMQ_IMAGE))
        return self._tcp_target(RabbitmqTarget, name, registry)

    def _add_ready(self, name: str, kind: str, create: Callable[[], ReadySystem[Any]]) -> None:
        """Start a server of another kind, unless it runs."""
        if name not in self._tcp or self._tcp.kind(name) != kind:
            self._check_server_name(name)
            self._tcp.add_ready(name, create())

    def _tcp_target(self, kind: type[AnyTcpTarget], name: str, registry: StrikeRegistry | None) -> AnyTcpTarget:
        target = self._tcp.target(name, registry or self._registry, self._unsupported("tcp", name))
        assert isinstance(target, kind)
        return target

    def _check_server_name(self, name: str) -> None:
        self._check_name(name, "server", [*(running.name for running in self.services), "service"])

    def _check_name(self, name: str, kind: str, also_taken: Iterable[str] = ()) -> None:
        """Check the name of a new server or service.

        Raises:
            SetupError: it is malformed, or taken.
        """
        taken = (*self._proxies, *self._tcp.names, *also_taken, "process", "proxy", "client", "tcp")
        if not is_target_name(name) or name in taken:
            raise SetupError(
                f"{name!r} can't be the name of a {kind}: lower case letters, digits and _, and not one that is taken"
            )

    def _add_server(self, kind: ServerKind, name: str, init: Init | None) -> None:
        if name in self._extra_admins and self._extra_admins[name][0] == kind:
            return
        self._check_server_name(name)
        self._backend.add_server(kind, name)
        self._proxies[name] = self._create_proxy(name)
        server = self._backend.servers[name]
        remember_url(server.url(server.direct_address))
        if kind == "redis":
            redis = RedisAdmin(server)
            self._extra_admins[name] = kind, redis
            redis.take_baseline()
            return
        admin = PostgresAdmin(server, template=self._backend.template_database)
        self._extra_admins[name] = kind, admin
        if init is not None:
            admin.prepare(init)
        admin.take_baseline()

    def extra_target(self, name: str, registry: StrikeRegistry) -> PostgresTarget | RedisTarget | TcpTarget:
        """Return a server or TCP system that was added, with its strikes recorded in `registry`."""
        return self._tcp_target(TcpTarget, name, registry) if name in self._tcp else self._extra_server(name, registry)

    def _extra_server(self, name: str, registry: StrikeRegistry) -> PostgresTarget | RedisTarget:
        _, admin = self._extra_admins[name]
        if isinstance(admin, PostgresAdmin):
            return PostgresTarget(name, registry, admin=admin, **self._target_arguments("postgres", name))
        return RedisTarget(name, registry, admin=admin, **self._target_arguments("redis", name))

    @property
    def unsupported(self) -> Mapping[str, str]:
        """The faults that the backend cannot inject, such as "postgres.kill", with reasons."""
        return self._backend.unsupported

    @property
    def server_kinds(self) -> dict[str, str]:
        """The kind of each server ("postgres", "redis", "tcp" and so on) by its name."""
        extra = {name: kind for name, (kind, _) in self._extra_admins.items()}
        return (
            {"postgres": "postgres", "redis": "redis"}
            | extra
            | {name: self._tcp.kind(name) for name in self._tcp.names}
        )

    def load_schema(self, init: Init) -> None:
        """Make the schema of `postgres`, with which each test begins. Call it before the first test."""
        self._postgres_admin.prepare(init)

    @property
    def targets(self) -> dict[str, PostgresTarget | RedisTarget]:
        """All servers by name, without TCP systems."""
        extra = {name: self._extra_server(name, self._registry) for name in self._extra_admins}
        return {"postgres": self.postgres, "redis": self.redis, **extra}

    @property
    def tcp_targets(self) -> dict[str, TcpTarget]:
        """All TCP systems by name."""
        return {name: self._tcp_target(TcpTarget, name, self._registry) for name in self._tcp.names}

    @property
    def proxied_targets(self) -> dict[str, PostgresTarget | RedisTarget | TcpTarget]:
        """All servers and TCP systems by name."""
        return {**self.targets, **self.tcp_targets}

    @property
    def proxy_descriptors(self) -> set[int]:
        """The descriptors of the plugin's own connections to the proxies' APIs."""
        return self.proxy_client.descriptors | self._tcp.descriptors

    @property
    def services(self) -> list[RunningService]:
        """All services of this session, running or not."""
        return self._session_services.every

    def service_ports(self, service: Service) -> ServicePorts:
        """Return the ports of a service, also before its first start."""
        return self._session_services.ports_of(service)

    @property
    def strikes(self) -> list[Strike]:
        """The strikes of the session in order, healed or not."""
        return list(self._registry.strikes)

    def prepare_test(self, service: Service | None) -> RunningService | None:
        """Bring the stack and one service into the state in which each test begins. See `prepare_services`.

        Returns:
            The service, ready; None without a service.
        """
        running = self.prepare_services({"service": service} if service is not None else {})
        return running.get("service")

    def prepare_services(self, services: Mapping[str, Service]) -> dict[str, RunningService]:
        """Bring the stack into the state in which each test begins.

        The servers run without toxics, the databases are in their baseline, and the services are restarted if they were used.

        Args:
            services: the descriptions of the services by name.

        Returns:
            The services, ready.

        Raises:
            SetupError: a name is malformed or taken.
            ServerNotReady, CannotStart: a service could not be started.
        """
        for name in services:
            self._check_name(name, "service")
        self._session_services.refuse_broken(services.values())
        self._restart_dead()
        running = self._session_services.select(services, clean=self._clean_if_used, take_baseline=self._take_baseline)
        if not self._has_baseline:
            self._take_baseline()
        try:
            self._clean_servers()
        except Exception as error:
            if self._test:
                error.add_note(f"the last test before this one was {self._test}")
            raise
        finally:
            self._test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        start_together(running, SYSTEM)
        return running

    def _clean_if_used(self) -> None:
        """Restore the baselines of the main servers, if there is one."""
        if self._has_baseline:
            self._postgres_admin.clean().result()
            self._redis_admin.clean()
            self._tcp.clean(self._targets_struck)

    def _clean_servers(self) -> None:
        """Remove toxics and restore the baselines. Each Postgres works on that while the Redis servers are cleaned."""
        struck = self._targets_struck
        cleaning = [
            target.admin.clean(settings=name not in struck)
            for name, target in self.targets.items()
            if isinstance(target, PostgresTarget)
        ]
        try:
            self._reset_foreign_toxics()
            self._tcp.prepare_test(struck)
            self._log_begins = {name: server.log_size() for name, server in self._backend.servers.items()}
            for name, target in self.targets.items():
                if isinstance(target, RedisTarget):
                    target.admin.clean(settings=name not in struck)
            for each in cleaning:
                each.result()
        finally:
            wait(cleaning)

    def _admins(self, kind: type[Admin]) -> list[Admin]:
        admins = (self._postgres_admin, self._redis_admin, *(admin for _, admin in self._extra_admins.values()))
        return [admin for admin in admins if isinstance(admin, kind)]

    def logs(self) -> dict[str, str]:
        """Return the log of each server since the test began."""
        servers = self._backend.servers.items()
        return {name: server.log_text(self._log_begins.get(name, 0)) for name, server in servers} | self._tcp.logs()

    def mark_used(self) -> None:
        """Restart services before the next test, because this one has used them. See `Service(restart=...)`."""
        self._session_services.was_used = True

    def mark_struck(self) -> None:
        """Restart services before the next test, because this one has struck a fault."""
        self._session_services.was_struck = True

    def finish_test(self) -> None:
        """Check the backend and remove toxics, after the faults of a test have healed.

        Raises:
            BackendDied: a server or the proxy has ended without a strike; the message has its log.
        """
        self._backend.check()
        self._tcp.check()
        self._reset_foreign_toxics()

    def _reset_foreign_toxics(self) -> None:
        """Remove the toxics that a test added by toxiproxy-python, unless a fault of the session is struck."""
        if not any(not strike.healed for strike in self._registry.strikes):
            self._tcp.reset()
            if self._backend.shares_toxiproxy:
                for proxy in self._proxies.values():
                    proxy.reset()
                return
            self.proxy_client.reset()
            for proxy in self._proxies.values():
                proxy.mark_enabled()

    def _take_baseline(self) -> None:
        self._postgres_admin.take_baseline()
        if "redis" not in self._targets_struck:
            self._redis_admin.take_baseline()
        self._tcp.take_baseline()
        self._has_baseline = True

    @property
    def _targets_struck(self) -> set[str]:
        """The names of the targets that faults of the session strike now."""
        return {strike.label.partition(".")[0] for strike in self._registry.strikes if not strike.healed}

    def _restart_dead(self) -> None:
        """Restart servers and proxy if one has ended in an earlier test, which has failed with that error."""
        try:
            self._backend.check()
        except BackendDied:
            self._backend.restart_dead()
            if self._proxy_client is not None:
                self._proxy_client.close()
            self._proxy_client = self._connect_proxy(self._backend)
            for name, proxy in self._proxies.items():
                proxy.create_again(self._proxy_client, str(self._backend.upstream_address(name)))
                self._configure_proxy(name, proxy)
            self._tcp.restore()

    if not TYPE_CHECKING:  # a type checker would no longer report wrong names

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)

    def close(self) -> None:
        """Heal the strikes of the session, and end all processes even if a step fails.

        Raises:
            Exception: the first failure, such as that of a strike which could not be healed.
        """
        stops = [running.stop for running in self.services]
        redis = [admin.close for admin in self._admins(RedisAdmin)]
        postgres = [admin.close for admin in self._admins(PostgresAdmin)]
        control = [self._proxy_client.close] if self._proxy_client is not None else []
        failures: list[Exception] = []
        for step in (self._registry.heal, *stops, *redis, *postgres, *control, self._tcp.close):
            try:
                step()
            except Exception as failure:  # noqa: BLE001  # the backend must be closed in any case, because it has the processes
                failures.append(failure)
        self._backend.close()
        if failures:
            raise failures[0]
