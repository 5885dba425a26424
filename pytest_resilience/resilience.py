"""The value of the `resilience` fixture, with the targets, the strikes and the check for leaks of one test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clock import SYSTEM
from .errors import HealFailed, NoService, ResilienceError, SetupError, UnknownFault
from .faults import FAULTS
from .faults.fault import Fault, Strike
from .history import History
from .leaks.check import LeakCheck
from .leaks.compare import Leak, check_names
from .leaks.event_loops import is_running
from .stack import Stack
from .targets.foreign_process import ForeignProcess
from .targets.server import PostgresTarget, RedisTarget
from .targets.service import RunningService, ServiceTarget
from .targets.target import StrikeRegistry
from .wording import did_you_mean, no_attribute

if TYPE_CHECKING:
    import asyncio

    from .admin.postgres import Init

NO_SERVICE = """\
resilience.service: no resilience_service fixture describes how your service starts. Write one in conftest.py:

    import sys
    import pytest
    from pytest_resilience import Service

    @pytest.fixture(scope="session")
    def resilience_service(resilience_stack):
        return Service([sys.executable, "-m", "shop"], port_variable="PORT", ready="/readyz", within=10.0,
                       env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})
"""


class Resilience:
    """The value of the `resilience` fixture.

    Attributes:
        postgres, redis: the servers behind their proxies, with a method for each fault.
        service: the service under test, if a `resilience_service` fixture describes it.
        strikes: the strikes of this test, in order.
        history: the history of this test.
    """

    postgres: PostgresTarget
    redis: RedisTarget

    def __init__(self, stack: Stack, running: RunningService | None) -> None:
        self._stack = stack
        self._registry = StrikeRegistry()
        self._running = running
        self._service = ServiceTarget(self._registry, running) if running is not None else None
        self.postgres, self.redis = stack.create_targets(self._registry)
        self.history = History(start=SYSTEM.now())
        self._finished = False
        self._leak_check: LeakCheck | None = None
        self._new_leak_check: Callable[[Sequence[str]], LeakCheck] | None = None
        self._event_loop_watch = ExitStack()

    @property
    def service(self) -> ServiceTarget:
        """The service under test.

        Raises:
            NoService: no fixture describes it; the message has the lines to write.
        """
        if self._service is None:
            raise NoService(NO_SERVICE)
        self._stack.mark_dirty()
        return self._service

    def add_postgres(self, name: str, init: Init | None = None) -> PostgresTarget:
        """Return another Postgres. The first call with a name starts it. See `factories.postgres`."""
        return self._stack.add_postgres(name, init, registry=self._registry)

    def add_redis(self, name: str) -> RedisTarget:
        """Return another Redis. The first call with a name starts it."""
        return self._stack.add_redis(name, registry=self._registry)

    def process(self, pid: int) -> ForeignProcess:
        """Return a process of yours as a target with kill, pause, terminate and the faults of resources.

        Raises:
            SetupError: there is no such process, or it is an ancestor of this one.
        """
        return ForeignProcess(self._registry, pid, self._stack.backend_for_processes)

    @property
    def strikes(self) -> list[Strike]:
        """The strikes of this test in order, healed or not."""
        return list(self._registry.strikes)

    def strike(self, name: object = None, *arguments: object, **settings: object) -> Strike:
        """Strike a fault by its name, as the marker does, such as `strike("postgres.latency", seconds=0.2)`.

        Raises:
            UnknownFault: there is no such target or fault.
            SetupError: the settings don't fit the fault.
        """
        __tracebackhide__ = True  # the message explains a wrong marker
        if not isinstance(name, str):
            raise SetupError(
                f'fault(name, **settings) needs the name of a fault, such as fault("redis.refuse"); got {name!r}'
            )
        target_name, _, fault_name = name.partition(".")
        kinds = self._stack.server_kinds | {"service": "service"}
        known = [f"{each}.{fault}" for fault, f in FAULTS.items() for each, kind in kinds.items() if kind in f.targets]
        if name not in known:
            raise UnknownFault(name, known)
        built_in = target_name in ("postgres", "redis", "service")
        target = getattr(self, target_name) if built_in else self._stack.extra_target(target_name, self._registry)
        return _make_fault(name, fault_name, arguments, settings).strike(target)

    if not TYPE_CHECKING:  # a type checker would no longer report wrong names

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)

    def start_leak_check(
        self, root: Path, loops: Iterable[asyncio.AbstractEventLoop], allowed: Sequence[str] = ()
    ) -> LeakCheck:
        """Take the snapshot with which the end of the test is compared, and return the check.

        Args:
            root: the directory from which paths are shown.
            loops: event loops that outlive the test.
            allowed: patterns of resources that may stay.
        """
        self._new_leak_check = lambda also_allowed: LeakCheck(
            self._stack, self._all_strikes, root=root, loops=loops, allowed=[*allowed, *also_allowed]
        )
        self._leak_check = self._new_leak_check(())
        return self._leak_check

    def _all_strikes(self) -> list[Strike]:
        return [*self._stack.strikes, *self.strikes]

    def watch_event_loops(self) -> None:
        """Report the open connections of each event loop that is closed, until `stop_watching_event_loops`."""
        assert self._leak_check is not None, "start_leak_check comes first"
        self._event_loop_watch.enter_context(self._leak_check.watching_event_loops())

    def stop_watching_event_loops(self) -> None:
        """Ignore event loops that are closed from now on."""
        self._event_loop_watch.close()

    def leaks(self) -> list[Leak]:
        """Return the resources that the test would leak if it ended now, those of its fixtures included.

        A sync test waits up to half a second for resources that are about to be released. A running event loop does not wait,
        because that would block its tasks. Resources that the marker `leaks` allows are left out.

        Raises:
            SetupError: there is no snapshot, under --resilience-leaks=off or before the body has begun.
        """
        __tracebackhide__ = True
        return _leaks_found_by(self._started_leak_check())

    @contextmanager
    def no_growth(self, *allowed: str) -> Iterator[None]:
        """Assert that no resource that is new in the block stays after it.

        Resources are connections, locks, subscriptions, files, threads, tasks and processes. They are compared by count and
        name, as at the end of a test. Those of the service under test are left out.

        Args:
            allowed: patterns of resources that may stay, with the names of the marker `leaks`, such as "thread:pool-*".

        Raises:
            AssertionError: resources have stayed; the message has their names.
            SetupError: a pattern is malformed, or there is no snapshot; see `leaks`.
        """
        __tracebackhide__ = True
        check_names(allowed, 'no_growth takes names such as "thread:pool-*"')
        self._started_leak_check()
        assert self._new_leak_check is not None, "both are set by start_leak_check"
        check = self._new_leak_check(allowed)
        with check.watching_event_loops():
            yield
        if grown := _leaks_found_by(check):
            raise AssertionError("new since the block began:\n" + "\n".join(f"  {leak}" for leak in grown))

    def _started_leak_check(self) -> LeakCheck:
        __tracebackhide__ = True
        if self._leak_check is None:
            raise SetupError(
                "there is no snapshot from the begin of the test's body to compare with: "
                "either --resilience-leaks=off is set, or the body has not begun yet (in a fixture)"
            )
        return self._leak_check

    def finish(self) -> None:
        """Heal all strikes and check the backend. Further calls do nothing.

        Raises:
            HealFailed: a fault could not be healed.
            BackendDied: a server has ended without a strike.
        """
        if self._finished:
            return
        self._finished = True
        if self._registry.strikes:
            self._stack.mark_dirty()
        try:
            self._registry.heal()
        except HealFailed as failed:
            try:
                self._stack.finish_test()
            except ResilienceError as second:
                failed.add_note(f"and then: {second}")  # a dead server is the usual reason for a failed heal
            raise
        self._stack.finish_test()

    @property
    def vacuous(self) -> list[Strike]:
        """The healed strikes that affected nothing."""
        return [strike for strike in self._registry.strikes if strike.vacuous]

    def logs(self) -> dict[str, str]:
        """Return the logs of the service and of each server since the test began."""
        service = {"service": self._service.log} if self._service is not None else {}
        return service | self._stack.logs()


def _make_fault(name: str, fault_name: str, arguments: tuple[object, ...], settings: dict[str, object]) -> Fault:
    """Return the fault of a marker.

    Raises:
        SetupError: the settings don't fit the fault; the message has the marker and the settings that it takes.
    """
    __tracebackhide__ = True
    signature = inspect.signature(FAULTS[fault_name])
    try:
        signature.bind(*arguments, **settings)  # its error has no name of a class
        return FAULTS[fault_name](*arguments, **settings)
    except TypeError as error:
        parameters = [str(each.replace(annotation=each.empty)) for each in signature.parameters.values()]
        hints = [did_you_mean(each, signature.parameters) for each in settings if each not in signature.parameters]
        raise SetupError(
            f"fault({name!r}): {error}{''.join(hints)}; it takes {', '.join(parameters) or 'no settings'}"
        ) from None
    except SetupError as error:
        given = [repr(name), *map(repr, arguments), *(f"{key}={value!r}" for key, value in settings.items())]
        raise SetupError(f"{error}; in fault({', '.join(given)})") from None


def _leaks_found_by(check: LeakCheck) -> list[Leak]:
    return check.leaks_now() if is_running() else check.leaks()
