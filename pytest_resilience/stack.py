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

BackendKind = Literal["postgres", "redis"]


class _Parts(TypedDict):
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
        self._ledger = StrikeRegistry()
        self._services: dict[int, tuple[Service, RunningService]] = {}
        self._dirty = False
        self._has_baseline = False
        self._more: dict[str, tuple[BackendKind, PostgresAdmin | RedisAdmin]] = {}
        self._control: ToxiproxyClient | None = None
        self._log_begins: dict[str, int] = {}
        self._test = ""  # that had the stack last
        try:
            backend.start()
            for server in backend.servers.values():
                remember_url(server.url(server.direct))
            self._control = self._reach(backend)
            self._doors = {name: self._door(name) for name in ("postgres", "redis")}
            self._postgres_admin = PostgresAdmin(backend.servers["postgres"], template=backend.template)
            self._redis_admin = RedisAdmin(backend.servers["redis"])
            self.postgres, self.redis = self.targets(self._ledger)
        except BaseException:
            backend.close()
            raise

    @staticmethod
    def _reach(backend: Backend) -> ToxiproxyClient:
        return ToxiproxyClient(
            *backend.api, connection_counts=backend.seen, proxied_clients=backend.behind, check=backend.check
        )

    def _door(self, name: str) -> ProxyHandle:
        control = self._control
        assert control is not None

        def create(_: int) -> ProxyHandle:
            listen, upstream = self._backend.door(name)
            return create_proxy(control, f"{self._backend.prefix}{name}", listen, upstream)

        return with_free_port(create, taken=SetupError)

    @property
    def toxiproxy(self) -> toxiproxy.Toxiproxy:
        """A toxiproxy-python client of this stack's server."""
        assert self._control is not None
        return self._control.as_toxiproxy_python()

    @property
    def control(self) -> ToxiproxyClient:
        """The client of the proxy's API."""
        assert self._control is not None
        return self._control

    @property
    def runner(self) -> Backend:
        """What runs processes beside the servers."""
        return self._backend

    def targets(self, ledger: StrikeRegistry) -> tuple[PostgresTarget, RedisTarget]:
        """Postgres and Redis, with their strikes written to `ledger`."""
        postgres = PostgresTarget("postgres", ledger, admin=self._postgres_admin, **self._parts("postgres", "postgres"))
        return postgres, RedisTarget("redis", ledger, admin=self._redis_admin, **self._parts("redis", "redis"))

    def _parts(self, kind: BackendKind, name: str) -> _Parts:
        """What a target of either kind is made of."""
        door = self._doors[name]
        return {
            "server": self._backend.servers[name],
            "proxy_handle": door,
            "address": self._backend.client_address(door.listen),
            "cannot": self._cannot(kind, name),
        }

    def _cannot(self, kind: str, name: str) -> dict[str, str]:
        """The faults of a target that the backend can't inject, by their own names."""
        told = ((fault.partition("."), reason) for fault, reason in self._backend.cannot.items())
        return {
            fault: f"{self.backend} cannot {name}.{fault}: {reason}"
            for (owner, _, fault), reason in told
            if owner == kind
        }

    # -- more than one of a kind

    def add_postgres(
        self, name: str, init: Init | None = None, *, ledger: StrikeRegistry | None = None
    ) -> PostgresTarget:
        """One more Postgres behind a proxy of its own; the same one for everybody who says the same name.

        Args:
            name: such as "replica"; the first half of its faults' labels.
            init: SQL, files with SQL, or functions that are given its URL: what makes its schema, once.
            ledger: where its strikes are written; None for the session's.

        Raises:
            SetupError: the name is taken or no name, or this backend has no more servers.
        """
        self._add("postgres", name, init)
        target = self.more(name, ledger or self._ledger)
        assert isinstance(target, PostgresTarget)
        return target

    def add_redis(self, name: str, *, ledger: StrikeRegistry | None = None) -> RedisTarget:
        """One more Redis behind a proxy of its own; see `add_postgres`."""
        self._add("redis", name, None)
        target = self.more(name, ledger or self._ledger)
        assert isinstance(target, RedisTarget)
        return target

    def _add(self, kind: BackendKind, name: str, init: Init | None) -> None:
        if name in self._more and self._more[name][0] == kind:
            return
        taken = (*self._doors, "service", "process", "proxy")
        if not re.fullmatch("[a-z][a-z0-9_]{0,30}", str(name)) or name in taken:
            raise SetupError(
                f"{name!r} can't be the name of a server: lower case letters, digits and _, and not one that is taken"
            )
        self._backend.add(kind, name)
        self._doors[name] = self._door(name)
        server = self._backend.servers[name]
        remember_url(server.url(server.direct))
        if kind == "redis":
            redis = RedisAdmin(server)
            self._more[name] = kind, redis
            redis.take_baseline()
            return
        admin = PostgresAdmin(server, template=self._backend.template)
        self._more[name] = kind, admin
        if init is not None:
            admin.prepare(init)
        admin.take_baseline()

    def more(self, name: str, ledger: StrikeRegistry) -> PostgresTarget | RedisTarget:
        """A server that was added, with its strikes written to `ledger`."""
        _, admin = self._more[name]
        if isinstance(admin, PostgresAdmin):
            return PostgresTarget(name, ledger, admin=admin, **self._parts("postgres", name))
        return RedisTarget(name, ledger, admin=admin, **self._parts("redis", name))

    @property
    def kinds(self) -> dict[str, str]:
        """What each server is: "postgres" or "redis", by its name."""
        return {"postgres": "postgres", "redis": "redis"} | {name: kind for name, (kind, _) in self._more.items()}

    def prepare(self, init: Init) -> None:
        """Make the schema of `postgres`, which every test begins with; before the first test."""
        self._postgres_admin.prepare(init)

    @property
    def systems(self) -> dict[str, PostgresTarget | RedisTarget]:
        """All servers, by their names."""
        more = {name: self.more(name, self._ledger) for name in self._more}
        return {"postgres": self.postgres, "redis": self.redis, **more}

    @property
    def services(self) -> list[RunningService]:
        """The services that have been started in this session, whether they run now or not."""
        return [running for _, running in self._services.values()]

    @property
    def strikes(self) -> list[Strike]:
        """What struck for the session, in order, healed or not."""
        return list(self._ledger.strikes)

    def begin(self, service: Service | None) -> RunningService | None:
        """Make everything as a test shall find it: servers up, no toxics, a clean database, an empty Redis, a fresh service.

        Returns:
            The service, ready; None when there is none.
        """
        if service is not None:
            self._refuse_hopeless(service)
        self._revive()
        running = self._running(service) if service is not None else None
        for _, other in self._services.values():
            if other is not running:
                other.stop()  # another module's, which would go on working on the same servers
        if running is not None and self._dirty and running.spec.restart_between_tests:
            running.stop()
        self._dirty = False
        if not self._has_baseline:
            self._take_baseline()
        struck = self._struck
        cleaning = [
            target.admin.clean(settings=name not in struck)
            for name, target in self.systems.items()
            if isinstance(target, PostgresTarget)
        ]
        try:
            self._heal_by_hand()
            self._log_begins = {name: server.log_size() for name, server in self._backend.servers.items()}
            for name, target in self.systems.items():
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

    def _refuse_hopeless(self, service: Service) -> None:
        """Fail at once for a service that could not be started; another object that describes it starts it no better."""
        for spec, running in list(self._services.values()):
            if spec == service:
                running.refuse_hopeless()

    def _admins(self, kind: type[Admin]) -> list[Admin]:
        every = (self._postgres_admin, self._redis_admin, *(admin for _, admin in self._more.values()))
        return [admin for admin in every if isinstance(admin, kind)]

    def logs(self) -> dict[str, str]:
        """What each server wrote since the test began."""
        return {name: server.log_text(self._log_begins.get(name, 0)) for name, server in self._backend.servers.items()}

    def touched(self) -> None:
        """A test struck something or used the service: the next one gets a fresh process."""
        self._dirty = True

    def end(self) -> None:
        """After a test's faults are healed.

        Raises:
            BackendDied: a server or the proxy ended although nobody struck it; shows its log.
        """
        self._backend.check()
        self._heal_by_hand()

    def _heal_by_hand(self) -> None:
        """Undo toxics that were added without a fault of ours, through toxiproxy-python."""
        assert self._control is not None
        if not any(not strike.healed for strike in self._ledger.strikes):
            if self._backend.shares_proxy:
                for door in self._doors.values():
                    door.reset()
                return
            self._control.reset()
            for door in self._doors.values():
                door.mark_enabled()

    def _running(self, service: Service) -> RunningService:
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
        if "redis" not in self._struck:
            self._redis_admin.take_baseline()
        self._has_baseline = True

    @property
    def _struck(self) -> set[str]:
        """The names of what faults of the session strike now."""
        return {strike.label.partition(".")[0] for strike in self._ledger.strikes if not strike.healed}

    def _revive(self) -> None:
        """Bring back what died in an earlier test, which has failed for it."""
        try:
            self._backend.check()
        except BackendDied:
            self._backend.revive()
            if self._control is not None:
                self._control.close()
            self._control = self._reach(self._backend)
            for name, door in self._doors.items():
                upstream = str(self._backend.servers[name].upstream)
                populate(
                    self._control, [(door.name, door.listen, upstream)]
                )  # the same port: addresses were handed out
                door.toxiproxy = self._control
                door.mark_enabled()

    if not TYPE_CHECKING:  # type checkers see wrong names by themselves

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)

    def close(self) -> None:
        """End everything, whatever fails meanwhile; reports the first failure, such as a session strike that could not be healed."""
        stops = [running.stop for _, running in self._services.values()]
        redis = [admin.close for admin in self._admins(RedisAdmin)]
        postgres = [admin.close for admin in self._admins(PostgresAdmin)]
        control = [self._control.close] if self._control is not None else []
        failures: list[Exception] = []
        for step in (self._ledger.heal, *stops, *redis, *postgres, *control):
            try:
                step()
            except Exception as failure:  # noqa: BLE001  # whatever it is: the backend must be closed, it has the processes
                failures.append(failure)
        self._backend.close()
        if failures:
            raise failures[0]
