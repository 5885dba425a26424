"""One stack per session (and per xdist worker): a backend's servers behind proxies, and the clean state that every test begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .backends.backend import Backend
from .backends.postgres_admin import PostgresAdmin
from .backends.redis_admin import RedisAdmin
from .errors import BackendDied, ResilienceError, SetupError
from .proxy.client import Control, Door
from .targets.server import PostgresTarget, RedisTarget
from .targets.service import RunningService
from .targets.spec import Service
from .targets.target import Ledger

if TYPE_CHECKING:
    import toxiproxy


PORT_TRIES = 3  # another process may take a free port before the proxy binds it


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
        self._ledger = Ledger()
        self._services: dict[int, tuple[Service, RunningService]] = {}
        self._dirty = False
        self._has_baseline = False
        self._control: Control | None = None
        self._log_begins: dict[str, int] = {}
        try:
            backend.start()
            self._control = Control(*backend.api, seen=backend.seen)
            self._doors = {name: self._door(name) for name in ("postgres", "redis")}
            self._postgres_admin = PostgresAdmin(backend.servers["postgres"], template=backend.template)
            self._redis_admin = RedisAdmin(backend.servers["redis"])
            self.postgres, self.redis = self.targets(self._ledger)
        except BaseException:
            backend.close()
            raise

    def _door(self, name: str) -> Door:
        assert self._control is not None
        for attempt in range(PORT_TRIES):
            listen, upstream = self._backend.door(name)
            try:
                return self._control.create(f"{self._backend.prefix}{name}", listen, upstream)
            except SetupError:
                if attempt == PORT_TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    @property
    def toxiproxy(self) -> toxiproxy.Toxiproxy:
        """A toxiproxy-python client of this stack's server."""
        assert self._control is not None
        return self._control.library()

    @property
    def runner(self) -> Backend:
        """What runs processes beside the servers."""
        return self._backend

    def targets(self, ledger: Ledger) -> tuple[PostgresTarget, RedisTarget]:
        """Postgres and Redis, with their strikes written to `ledger`."""
        servers, doors = self._backend.servers, self._doors
        postgres = PostgresTarget(
            "postgres",
            ledger,
            server=servers["postgres"],
            door=doors["postgres"],
            address=self._backend.client_address(doors["postgres"].listen),
            admin=self._postgres_admin,
            cannot=self._cannot("postgres"),
        )
        redis = RedisTarget(
            "redis",
            ledger,
            server=servers["redis"],
            door=doors["redis"],
            address=self._backend.client_address(doors["redis"].listen),
            admin=self._redis_admin,
            cannot=self._cannot("redis"),
        )
        return postgres, redis

    def _cannot(self, target: str) -> dict[str, str]:
        """The faults of a target that the backend can't inject, by their own names."""
        told = ((name.partition("."), reason) for name, reason in self._backend.cannot.items())
        return {
            fault: f"{self.backend} cannot {target}.{fault}: {reason}"
            for (owner, _, fault), reason in told
            if owner == target
        }

    def begin(self, service: Service | None) -> RunningService | None:
        """Make everything as a test shall find it: servers up, no toxics, a clean database, an empty Redis, a fresh service.

        Returns:
            The service, ready; None when there is none.
        """
        self._revive()
        running = self._running(service) if service is not None else None
        for _, other in self._services.values():
            if other is not running:
                other.stop()  # another module's, which would go on working on the same servers
        if running is not None and self._dirty and running.spec.restart_between_tests:
            running.stop()
        self._dirty = False
        if not self._has_baseline:
            self._postgres_admin.take_baseline()
            self._has_baseline = True
        cleaning = self._postgres_admin.clean()
        try:
            self._heal_by_hand()
            self._log_begins = {name: server.log_size() for name, server in self._backend.servers.items()}
            self._redis_admin.clean()
        finally:
            cleaning.result()
        if running is not None:
            running.start()
        return running

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
                door.forget()

    def _running(self, service: Service) -> RunningService:
        """The process of a service; its first start belongs to the baseline, since it makes the tables."""
        known = self._services.get(id(service))
        if known is not None:
            return known[1]
        if self._has_baseline:
            self._postgres_admin.clean().result()
        running = RunningService(service, self._backend)
        self._services[id(service)] = (service, running)
        running.start()
        running.stop()
        self._postgres_admin.take_baseline()
        self._has_baseline = True
        return running

    def _revive(self) -> None:
        """Bring back what died in an earlier test, which has failed for it."""
        try:
            self._backend.check()
        except BackendDied:
            self._backend.revive()
            if self._control is not None:
                self._control.close()
            self._control = Control(*self._backend.api, seen=self._backend.seen)
            for name, door in self._doors.items():
                upstream = str(self._backend.servers[name].upstream)
                self._control.populate([(door.name, door.listen, upstream)])  # the same port: addresses were handed out
                door.control = self._control
                door.forget()

    def close(self) -> None:
        """End everything; reports a session strike that could not be healed."""
        failure: ResilienceError | None = None
        try:
            self._ledger.heal()
        except ResilienceError as error:
            failure = error
        for _, running in self._services.values():
            running.stop()
        self._redis_admin.close()
        try:
            self._postgres_admin.close()
        finally:
            if self._control is not None:
                self._control.close()
            self._backend.close()
        if failure is not None:
            raise failure
