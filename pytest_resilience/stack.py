"""One stack per session (and per xdist worker): a backend's servers behind proxies, and the clean state that every test begins with."""

from __future__ import annotations

import os
import re
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .admin.postgres import PostgresAdmin
from .admin.redis import RedisAdmin
from .backends.backend import Address, Backend, Server
from .backends.session.ports import with_free_port
from .errors import BackendDied, SetupError
from .faults.fault import Strike
from .proxy_client.client import ToxiproxyClient
from .proxy_client.handle import ProxyHandle, create_proxy, populate
from .redaction import remember_url
from .targets.server import PostgresTarget, RedisTarget
from .targets.service import RunningService
from .targets.service_spec import Service
from .targets.target import StrikeRegistry
from .wording import no_attribute

if TYPE_CHECKING:
    import toxiproxy

    from .admin.postgres import Init

ServerKind = Literal["postgres", "redis"]


class _TargetArguments(TypedDict):
    server: Server
    proxy_handle: ProxyHandle
    address: Address
    cannot: dict[str, str]


Admin = TypeVar("Admin", PostgresAdmin, RedisAdmin)


class Stack:
    """Postgres and Redis behind a Toxiproxy.

    Args:
        backend: where they come from.
        seed: the run's seed.

    Attributes:
        backend: the backend's name, such as "embedded".
        seed: the run's seed.
        postgres, redis: the servers, with faults that are healed at the end of the session at the latest.
    """

    def __init__(self, backend: Backend, seed: int) -> None:
        self._backend = backend
        self.backend = backend.name
        self.seed = seed
        self._registry = StrikeRegistry()
        self._services: dict[int, tuple[Service, RunningService]] = {}
        self._dirty = False
        self._has_baseline = False
        self._extra_admins: dict[str, tuple[ServerKind, PostgresAdmin | RedisAdmin]] = {}
        self._proxy_client: ToxiproxyClient | None = None
        self._log_begins: dict[str, int] = {}
        self._test = ""  # that had the stack last
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
        control = self._proxy_client
        assert control is not None

        def create(_: int) -> ProxyHandle:
            listen, upstream = self._backend.proxy_addresses(name)
            return create_proxy(control, f"{self._backend.proxy_prefix}{name}", listen, upstream)

        return with_free_port(create, taken=SetupError)

    @property
    def toxiproxy(self) -> toxiproxy.Toxiproxy:
        """A toxiproxy-python client of this stack's server."""
        assert self._proxy_client is not None
        return self._proxy_client.as_toxiproxy_python()

    @property
    def proxy_client(self) -> ToxiproxyClient:
        """The client of the proxy's API."""
        assert self._proxy_client is not None
        return self._proxy_client

    @property
    def backend_for_processes(self) -> Backend:
        """What runs processes beside the servers."""
        return self._backend

    def create_targets(self, registry: StrikeRegistry) -> tuple[PostgresTarget, RedisTarget]:
        """Postgres and Redis, with their strikes written to `registry`."""
        postgres = PostgresTarget(
            "postgres", registry, admin=self._postgres_admin, **self._target_arguments("postgres", "postgres")
        )
        return postgres, RedisTarget(
            "redis", registry, admin=self._redis_admin, **self._target_arguments("redis", "redis")
        )

    def _target_arguments(self, kind: ServerKind, name: str) -> _TargetArguments:
        """What a target of either kind is made of."""
        proxy = self._proxies[name]
        return {
            "server": self._backend.servers[name],
            "proxy_handle": proxy,
            "address": self._backend.client_address(proxy.listen),
            "cannot": self._unsupported(kind, name),
        }

    def _unsupported(self, kind: str, name: str) -> dict[str, str]:
        """The faults of a target that the backend can't inject, by their own names."""
        told = ((fault.partition("."), reason) for fault, reason in self._backend.unsupported.items())
        return {
            fault: f"{self.backend} cannot {name}.{fault}: {reason}"
            for (owner, _, fault), reason in told
            if owner == kind
        }

    # -- more than one of a kind

    def add_postgres(
        self, name: str, init: Init | None = None, *, registry: StrikeRegistry | None = None
    ) -> PostgresTarget:
        """One more Postgres behind a proxy of its own; the same one for everybody who says the same name.

        Args:
            name: such as "replica"; the first half of its faults' labels.
            init: SQL, files with SQL, or functions that are given its URL: what makes its schema, once.
            registry: where its strikes are written; None for the session's.

        Raises:
            SetupError: the name is taken or no name, or this backend has no more servers.
        """
        self._add_server("postgres", name, init)
        target = self.extra_target(name, registry or self._registry)
        assert isinstance(target, PostgresTarget)
        return target

    def add_redis(self, name: str, *, registry: StrikeRegistry | None = None) -> RedisTarget:
        """One more Redis behind a proxy of its own; see `add_postgres`."""
        self._add_server("redis", name, None)
        target = self.extra_target(name, registry or self._registry)
        assert isinstance(target, RedisTarget)
        return target

    def _add_server(self, kind: ServerKind, name: str, init: Init | None) -> None:
        if name in self._extra_admins and self._extra_admins[name][0] == kind:
            return
        taken = (*self._proxies, "service", "process", "proxy")
        if not re.fullmatch("[a-z][a-z0-9_]{0,30}", str(name)) or name in taken:
            raise SetupError(
                f"{name!r} can't be the name of a server: lower case letters, digits and _, and not one that is taken"
            )
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

    def extra_target(self, name: str, registry: StrikeRegistry) -> PostgresTarget | RedisTarget:
        """A server that was added, with its strikes written to `registry`."""
        _, admin = self._extra_admins[name]
        if isinstance(admin, PostgresAdmin):
            return PostgresTarget(name, registry, admin=admin, **self._target_arguments("postgres", name))
        return RedisTarget(name, registry, admin=admin, **self._target_arguments("redis", name))

    @property
    def server_kinds(self) -> dict[str, str]:
        """What each server is: "postgres" or "redis", by its name."""
        return {"postgres": "postgres", "redis": "redis"} | {
            name: kind for name, (kind, _) in self._extra_admins.items()
        }

    def load_schema(self, init: Init) -> None:
        """Make the schema of `postgres`, which every test begins with; before the first test."""
        self._postgres_admin.prepare(init)

    @property
    def targets(self) -> dict[str, PostgresTarget | RedisTarget]:
        """All servers, by their names."""
        more = {name: self.extra_target(name, self._registry) for name in self._extra_admins}
        return {"postgres": self.postgres, "redis": self.redis, **more}

    @property
    def services(self) -> list[RunningService]:
        """The services that have been started in this session, whether they run now or not."""
        return [running for _, running in self._services.values()]

    @property
    def strikes(self) -> list[Strike]:
        """What struck for the session, in order, healed or not."""
        return list(self._registry.strikes)

    def prepare_test(self, service: Service | None) -> RunningService | None:
        """Make everything as a test shall find it: servers up, no toxics, a clean database, an empty Redis, a fresh service.

        Returns:
            The service, ready; None when there is none.
        """
        if service is not None:
            self._refuse_broken_service(service)
        self._restart_dead()
        running = self._service_process(service) if service is not None else None
        for _, other in self._services.values():
            if other is not running:
                other.stop()  # another module's, which would go on working on the same servers
        if running is not None and self._dirty and running.spec.restart_between_tests:
            running.stop()
        self._dirty = False
        if not self._has_baseline:
            self._take_baseline()
        struck = self._targets_struck
        cleaning = [
            target.admin.clean(settings=name not in struck)
            for name, target in self.targets.items()
            if isinstance(target, PostgresTarget)
        ]
        try:
            self._reset_foreign_toxics()
            self._log_begins = {name: server.log_size() for name, server in self._backend.servers.items()}
            for name, target in self.targets.items():
                if isinstance(target, RedisTarget):
                    target.admin.clean(settings=name not in struck)
            for each in cleaning:
                each.result()
        except Exception as error:
            if self._test:
                error.add_note(f"the last test before this one was {self._test}")
            raise
        finally:
            self._test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
            wait(cleaning)
        if running is not None:
            running.begin()
        return running

    def _refuse_broken_service(self, service: Service) -> None:
        """Fail at once for a service that could not be started; another object that describes it starts it no better."""
        for spec, running in list(self._services.values()):
            if spec == service:
                running.raise_start_error()

    def _admins(self, kind: type[Admin]) -> list[Admin]:
        every = (self._postgres_admin, self._redis_admin, *(admin for _, admin in self._extra_admins.values()))
        return [admin for admin in every if isinstance(admin, kind)]

    def logs(self) -> dict[str, str]:
        """What each server wrote since the test began."""
        return {name: server.log_text(self._log_begins.get(name, 0)) for name, server in self._backend.servers.items()}

    def mark_dirty(self) -> None:
        """A test struck something or used the service: the next one gets a fresh process."""
        self._dirty = True

    def finish_test(self) -> None:
        """After a test's faults are healed.

        Raises:
            BackendDied: a server or the proxy ended although nobody struck it; shows its log.
        """
        self._backend.check()
        self._reset_foreign_toxics()

    def _reset_foreign_toxics(self) -> None:
        """Undo toxics that were added without a fault of ours, through toxiproxy-python."""
        assert self._proxy_client is not None
        if not any(not strike.healed for strike in self._registry.strikes):
            if self._backend.shares_toxiproxy:
                for proxy in self._proxies.values():
                    proxy.reset()
                return
            self._proxy_client.reset()
            for proxy in self._proxies.values():
                proxy.mark_enabled()

    def _service_process(self, service: Service) -> RunningService:
        """The process of a service; its first start belongs to the baseline, since it makes the tables."""
        known = self._services.get(id(service))
        if known is not None:
            return known[1]
        if self._has_baseline:
            self._postgres_admin.clean().result()
            self._redis_admin.clean()
        running = RunningService(service, self._backend)
        self._services[id(service)] = (service, running)
        running.begin()
        running.stop()
        self._take_baseline()
        return running

    def _take_baseline(self) -> None:
        self._postgres_admin.take_baseline()
        if "redis" not in self._targets_struck:
            self._redis_admin.take_baseline()
        self._has_baseline = True

    @property
    def _targets_struck(self) -> set[str]:
        """The names of what faults of the session strike now."""
        return {strike.label.partition(".")[0] for strike in self._registry.strikes if not strike.healed}

    def _restart_dead(self) -> None:
        """Bring back what died in an earlier test, which has failed for it."""
        try:
            self._backend.check()
        except BackendDied:
            self._backend.restart_dead()
            if self._proxy_client is not None:
                self._proxy_client.close()
            self._proxy_client = self._connect_proxy(self._backend)
            for name, proxy in self._proxies.items():
                upstream = str(self._backend.servers[name].upstream_address)
                populate(
                    self._proxy_client, [(proxy.name, proxy.listen, upstream)]
                )  # the same port: addresses were handed out
                proxy.toxiproxy = self._proxy_client
                proxy.mark_enabled()

    if not TYPE_CHECKING:  # type checkers see wrong names by themselves

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)

    def close(self) -> None:
        """End everything, whatever fails meanwhile; reports the first failure, such as a session strike that could not be healed."""
        stops = [running.stop for _, running in self._services.values()]
        redis = [admin.close for admin in self._admins(RedisAdmin)]
        postgres = [admin.close for admin in self._admins(PostgresAdmin)]
        control = [self._proxy_client.close] if self._proxy_client is not None else []
        failures: list[Exception] = []
        for step in (self._registry.heal, *stops, *redis, *postgres, *control):
            try:
                step()
            except Exception as failure:  # noqa: BLE001  # whatever it is: the backend must be closed, it has the processes
                failures.append(failure)
        self._backend.close()
        if failures:
            raise failures[0]
